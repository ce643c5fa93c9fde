"""Steps of training: one with the batch size of the config, and one with the last, smaller batch of an epoch.

The steps are those of :class:`~convergence.training.trainer.Trainer`, on a separate net that is discarded. A step
that would take long on a CPU gets fewer images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from convergence.checks.context import CheckContext, DistinctNet, user_code
from convergence.checks.findings import Finding, shortened
from convergence.config.stages import TrainingConfig
from convergence.data.image_order import subset_size
from convergence.errors import ConfigError, UserError
from convergence.networks.devices import choose_device, reproducible_arithmetic
from convergence.runs.tasks import StageTask
from convergence.training.loop import learning_rate
from convergence.training.objectives import known_labels
from convergence.training.trainer import Candidate, Trainer

NAME = "training"
STEP_SECONDS = 2.0
"""Longest step on a CPU."""
SMALLEST_STEP = 8
"""Images that a step has at least, if the batch has them."""
STEP_BYTES = 2e9
"""Largest memory of a step on a CPU."""
AGAIN_SECONDS = 0.5
"""A step of less than this is repeated, because the first one is slower."""
MORE_STEPS = 3
"""Repeats of such a step."""
BACKWARD = 3
"""A step of training in forward passes."""
IMAGES_READ = 8
"""Images that are read for a step, and repeated to fill its batch."""


def check_training(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about the training of every distinct net with nets to train."""
    config = context.experiment.training
    yield from _check_schedule(config)
    try:
        device = choose_device(config.device)
    except ConfigError as error:
        if not context.elsewhere:
            yield Finding(NAME, "fault", f"training.{error}", remedy='Set training.device to "auto" or to a device')
            return
        device = torch.device("cpu")
        yield Finding(NAME, "note", f"steps were computed on the CPU, because training.{error}")
    reproducible_arithmetic(config.threads)
    for net in context.working_nets:
        if any(_is_needed(context, context.folder.train_task(one)) for one in net.trained_here):
            try:
                yield from _check_steps(context, net, config, device)
            except UserError as error:
                yield Finding(NAME, "fault", f"{net.name}: {error}", remedy="Correct the network or [training]")


def _is_needed(context: CheckContext, task: StageTask) -> bool:
    return context.folder.state(task) != "done"


def _check_schedule(config: TrainingConfig) -> Iterator[Finding]:
    if config.warmup_epochs >= config.epochs:
        yield Finding(
            NAME, "warning", f"training.warmup_epochs = {config.warmup_epochs:g} is not below training.epochs = "
            f"{config.epochs}: the learning rate never reaches its peak", remedy="Lower training.warmup_epochs",
        )  # fmt: skip
    if config.schedule == "step" and config.step_epochs >= config.epochs:
        yield Finding(
            NAME, "warning", f"training.step_epochs = {config.step_epochs} is not below training.epochs = "
            f"{config.epochs}: the learning rate is never reduced", remedy="Lower training.step_epochs",
        )  # fmt: skip


def _check_steps(
    context: CheckContext, net: DistinctNet, config: TrainingConfig, device: torch.device
) -> Iterator[Finding]:
    first = net.trained_here[0]
    candidate = Candidate(context.folder.net_folder(first), net.spec, first.seed)
    assert net.module is not None
    if not any(parameter.requires_grad for parameter in net.module.parameters()):
        yield _fault(
            net, "the net has no parameter that can be trained", "Set requires_grad, or trained = false in [[nets]]"
        )
        return
    with user_code(f"preparing the training of {first.name}"):
        trainer = Trainer(candidate, context.splits, config.model_copy(update={"compile": False}), device)
    if first is net.nets[0]:
        built, again = net.module.state_dict(), trainer.module.state_dict()
        changed = [key for key in built if not torch.equal(built[key], again[key].cpu())]
        if changed:
            yield _fault(
                net, f"the net was built twice from seed {first.seed}, and the initial weights differ ({changed[0]})",
                "Draw initial weights from torch's global generator only, not from numpy or another generator",
            )  # fmt: skip
    trainer.start_epoch()
    sizes = _batch_sizes(context, config)
    for size, what in sizes:
        problem = _step(context, net, trainer, config, _affordable(net, size, device), what)
        if problem is not None:
            yield problem
            return
    for _ in range(MORE_STEPS):
        if (net.facts.training_s or 0.0) * net.facts.training_batch < AGAIN_SECONDS:
            _step(context, net, trainer, config, net.facts.training_batch, what)
    yield from _check_gradients(net, trainer.module, config)


def _batch_sizes(context: CheckContext, config: TrainingConfig) -> list[tuple[int, str]]:
    """Sizes of the batches of an epoch, as one process sees them, smallest first, each with its description."""
    n = subset_size(len(context.splits.train), config.data_share)
    size = min(config.batch_size, n)
    found: dict[int, str] = {}
    for images, what in ((n % size, f"the last batch of an epoch ({n} images in batches of {size})"),
                         (size, f"a batch of {size}")):  # fmt: skip
        for part in np.array_split(np.arange(images), context.processes) if images else ():
            of = f", divided over {context.processes} processes" if context.processes > 1 else ""
            found.setdefault(max(len(part), 1), what + of)
    return sorted(found.items())


def _affordable(net: DistinctNet, size: int, device: torch.device) -> int:
    """Images of a step that takes a few seconds at most; all of them on a GPU."""
    if device.type != "cpu":
        return size
    seconds = BACKWARD * net.facts.evaluation_cpu_s
    most = min(STEP_SECONDS / max(seconds, 1e-9), STEP_BYTES / max(BACKWARD * net.facts.activation_bytes, 1))
    return min(size, max(SMALLEST_STEP, int(most)))


def _step(
    context: CheckContext, net: DistinctNet, trainer: Trainer, config: TrainingConfig, size: int, what: str
) -> Finding | None:
    """Take a step; a finding if it fails. The shortest time of steps of the last size is kept."""
    train = context.splits.train
    chosen = np.linspace(0, len(train) - 1, min(size, IMAGES_READ)).round().astype(np.int64)
    rows = np.resize(np.arange(len(chosen)), size)
    device = trainer.device
    images = torch.from_numpy(train.read(chosen, 0)[rows]).to(device)
    labels = torch.from_numpy(known_labels(train, trainer.task)[chosen[rows]]).to(device)
    start = time.perf_counter()
    try:
        trainer.step(images, labels, learning_rate(config, 0.0))
    except torch.cuda.OutOfMemoryError:
        return _fault(
            net, f"a step with {what} needs more memory than {torch.cuda.get_device_name(device)} has",
            "Lower training.batch_size, or set training.precision to a half precision",
        )  # fmt: skip
    except ValueError as error:
        if size > 1 or "more than 1 value per channel" not in str(error):
            return _fault(net, f"a step with {what} failed: {shortened(error)}", "Correct the network")
        return _fault(
            net, f"{what} has 1 image for a batch norm without positions, which needs 2 values of each unit in "
            "training",
            _other_batch_size(subset_size(len(train), config.data_share), config.batch_size, context.processes),
        )  # fmt: skip
    except UserError as error:
        return _fault(
            net, f"in the first step, with {what}, the loss was not finite",
            f"Check the initial weights and that images are normalised. Message of the step: {error}",
        )  # fmt: skip
    except Exception as error:  # code of the net, in one step with gradients
        return _fault(
            net, f"a step with {what} failed: {type(error).__name__}: {shortened(error)}", "Correct the network, or "
            "training.precision and training.channels_last"
        )  # fmt: skip
    seconds = (time.perf_counter() - start) / size
    known = net.facts.training_s if net.facts.training_batch == size else None
    net.facts.training_s = seconds if known is None else min(known, seconds)
    net.facts.training_batch, net.facts.training_device = size, device.type
    return None


def _other_batch_size(n: int, size: int, processes: int) -> str:
    """A remedy: the nearest batch size whose batches leave no process a single image."""
    for distance in range(1, n):
        for other in (size - distance, size + distance):
            if 2 * processes <= other <= n and (n % other == 0 or n % other >= 2 * processes):
                return f"Set training.batch_size = {other}, or another one that leaves no batch of 1 image"
    return "Use a larger data set, or a net without batch norms"


def _check_gradients(net: DistinctNet, module: nn.Module, config: TrainingConfig) -> Iterator[Finding]:
    wanted = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in wanted.items() if parameter.grad is None]
    if without:
        yield Finding(
            NAME, "warning", f"{net.name}: {len(without)} of {len(wanted)} parameters get no gradient and keep their "
            f"initial values: {', '.join(without[:5])}{', …' if len(without) > 5 else ''}",
            remedy="Remove modules that the forward method does not use, or freeze them with requires_grad_(False)",
        )  # fmt: skip
    if config.precision == "float16":
        return  # loss scaling starts with gradients that overflow
    bad = [name for name, p in wanted.items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    if bad:
        yield _fault(
            net, f"gradients of {', '.join(bad[:5])} are not finite in the first step",
            "Check the initial weights, and operations such as sqrt or log at 0",
        )  # fmt: skip


def _fault(net: DistinctNet, found: str, remedy: str) -> Finding:
    return Finding(NAME, "fault", f"{net.name}: {found}", remedy=remedy)
