"""Nets: what each network returns for a few images, whether its weights can be saved, and whether its seed counts.

In evaluation mode a net has to be a fixed function of each image: the same bits twice, and the same values whichever
other images are in the batch. Otherwise statistics over images mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from convergence.checks.context import CheckContext, DistinctNet, described, user_code
from convergence.checks.findings import Finding, shortened
from convergence.checks.first_difference import first_difference
from convergence.checks.given_weights import check_given, check_given_files
from convergence.errors import UserError
from convergence.networks import Task
from convergence.networks.devices import reproducible_arithmetic
from convergence.networks.weights import load_arrays, state_arrays

NAME = "nets"
RELATIVE_ERROR = 1e-4
"""Differences above this share of the largest value are no rounding errors of float32."""
QUICK_S, TIMED_IMAGES = 0.1, 32
"""A net that takes less than this for an image is timed on a batch of more images."""


def check_nets(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about every distinct net of a config; run it before the checks that use the nets."""
    reproducible_arithmetic(context.experiment.training.threads)
    yield from check_given_files(context)
    for net in context.nets:
        try:
            yield from _check_net(context, net)
        except UserError as error:
            yield Finding(NAME, "fault", f"{net.name}: {error}", remedy="Correct the network or its settings")


def _check_net(context: CheckContext, net: DistinctNet) -> Iterator[Finding]:
    module = context.build(net.spec, max(net.nets[0].seed, 0))
    lazy = [name for name, value in [*module.named_parameters(), *module.named_buffers()] if is_lazy(value)]
    if lazy:
        yield _fault(
            net, f"{_named(lazy)} have no shape yet (lazy modules), and would not be drawn from the seed of the net",
            "Run the net once on torch.zeros(1, *image_shape) in its factory, or use modules with fixed sizes",
        )  # fmt: skip
        return
    values = [*module.named_parameters(), *module.named_buffers()]
    other = sorted({str(value.dtype) for _, value in values if value.is_floating_point()} - {"torch.float32"})
    if other:
        yield _fault(
            net, f"weights are stored as {', '.join(other)}", "Build the net in float32; training.precision selects "
            "half precision for products and convolutions",
        )  # fmt: skip
        return
    net.facts.parameters = sum(parameter.numel() for parameter in module.parameters())
    net.facts.state_bytes = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    fitting = True
    for finding in check_given(context, net, module):
        fitting = fitting and finding.level != "fault"
        yield finding
    if not fitting:
        return
    module, net.module = net.module or module, None
    yield from _check_output(context, net, module.eval())
    if net.working:
        net.module = module
        yield from _check_weights(context, net, module)


def _check_output(context: CheckContext, net: DistinctNet, module: nn.Module) -> Iterator[Finding]:
    """Findings about the output in evaluation mode; sets ``net.working``."""
    images, n_classes, task = context.samples[:2], context.splits.train.n_classes, net.spec.trained_for()
    shape = tuple(images.shape[1:])
    net.spec.check_tokens(max(split.n_tokens() for split in context.splits))
    with user_code(f"{type(module).__name__} on images of shape {shape}"):
        output, net.facts.activation_bytes = _first_pass(module, images)
    problem = _problem_of_output(output, images, n_classes, task)
    if problem and (net.trained_here or not _is_answer(output, len(images))):
        yield _fault(net, *problem)
        return
    if problem:
        net.classifies = False
        yield Finding(
            NAME, "note", f"{net.name}: the net returns {described(output)} for {len(images)} images, and there "
            f"are {n_classes} classes: no accuracy is computed, and functional experiments refuse the net"
        )  # fmt: skip
    start, cpu = time.perf_counter(), time.process_time()
    again = _run(module, images)
    between, net.facts.evaluation_cpu_s = time.perf_counter(), (time.process_time() - cpu) / len(images)
    if not bool(torch.isfinite(output).all()):
        yield _fault(
            net, "the net returns values that are not finite", "Check its weights, and that images are normalised"
        )  # fmt: skip
        return
    net.working, net.fixed, net.logits = True, False, output
    if not torch.equal(output, again):
        where = first_difference(module, (lambda: module(images), lambda: module(images)), torch.equal)
        yield _fault(
            net, f"two passes over the same images in evaluation mode differ: {where} draws random numbers",
            "Use nn.Dropout, or pass training=self.training to functional.dropout; a net must be deterministic in "
            "evaluation mode",
        )  # fmt: skip
        return
    start_alone = time.perf_counter()
    alone = _run(module, images[:1])
    net.facts.evaluation_s = min((between - start) / len(images), time.perf_counter() - start_alone)
    if not _first_row_close(output, alone):
        passes = (lambda: module(images), lambda: module(images[:1]))
        where = first_difference(module, passes, _first_row_close)
        yield _fault(
            net, f"the output for an image depends on the other images of its batch: {where} mixes images",
            "Keep images apart along the first axis in evaluation mode, for example with track_running_stats = True in "
            "batch norms",
        )  # fmt: skip
        return
    net.fixed = True
    if net.facts.evaluation_s < QUICK_S:
        many = images[:1].repeat(TIMED_IMAGES, *[1] * (images.ndim - 1))
        start = time.perf_counter()
        with suppress(Exception):  # a net for batches of a fixed size is found in its first step
            _run(module, many)
            net.facts.evaluation_s = min(net.facts.evaluation_s, (time.perf_counter() - start) / len(many))


def _check_weights(context: CheckContext, net: DistinctNet, module: nn.Module) -> Iterator[Finding]:
    """Findings about seeds, saving and loading, and training mode, with a second net of another seed."""
    seeds = [one.seed for one in net.nets if one.weights is None]
    another = next((seed for seed in [*seeds, 0, 1] if seed != max(net.nets[0].seed, 0)), 1)
    second = context.build(net.spec, another, net.n_outputs)
    drawn = [(x, y) for x, y in zip(module.parameters(), second.parameters(), strict=True) if x.numel()]
    if len(set(seeds)) > 1 and drawn and all(torch.equal(x, y) for x, y in drawn):
        yield _fault(
            net, f"seeds {seeds[0]} and {another} give the same initial weights",
            "Draw initial weights from torch's global generator, without seeding it in the factory",
        )  # fmt: skip
    try:
        with user_code("saving and loading the weights"):
            load_arrays(second, _saved_and_read(module))
    except UserError as error:
        yield _fault(net, shortened(error), "Keep weights in parameters and buffers that are plain tensors")
        return
    images = context.samples[:2]
    assert net.logits is not None
    if net.fixed and not _close(_run(second.eval(), images), net.logits):
        yield _fault(
            net, "the net returns other values after its weights were saved and loaded",
            "Keep everything that the output depends on in parameters or buffers (register_buffer)",
        )  # fmt: skip
    if net.trained_here:
        yield from _check_training_mode(context, net, second)


def _check_training_mode(context: CheckContext, net: DistinctNet, module: nn.Module) -> Iterator[Finding]:
    images = context.samples[:2]
    module.train()
    outputs = []
    with user_code(f"{type(module).__name__} in training mode on images of shape {tuple(images.shape[1:])}"):
        for _ in range(2):
            torch.manual_seed(0)
            outputs.append(_run(module, images))
    problem = _problem_of_output(outputs[0], images, context.splits.train.n_classes, net.spec.trained_for())
    if problem:
        net.working = False
        yield _fault(net, f"in training mode, {problem[0]}", problem[1])
    elif net.fixed and not torch.equal(*outputs) and bool(torch.isfinite(outputs[0]).all()):
        again = _seeded(lambda: module(images))
        where = first_difference(module, (again, again), torch.equal)
        yield Finding(
            NAME, "warning", f"{net.name}: two passes in training mode from the same random state differ: {where} "
            "draws random numbers from another generator than torch's, and training is not reproducible",
            remedy="Draw random numbers with torch",
        )  # fmt: skip


def _seeded(run: Callable[[], Any]) -> Callable[[], Any]:
    def again() -> Any:
        torch.manual_seed(0)
        return run()

    return again


def _first_pass(module: nn.Module, images: torch.Tensor) -> tuple[Any, int]:
    """The output, and the bytes per image of the outputs of all modules without children."""
    numbers, handles = [], []

    def note(part: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            numbers.append(output.numel() * output.element_size())

    for part in module.modules():
        if next(part.children(), None) is None:
            handles.append(part.register_forward_hook(note))
    try:
        return _run(module, images), sum(numbers) // len(images)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run(module: nn.Module, images: torch.Tensor) -> Any:
    return module(images.clone())


def _problem_of_output(output: Any, images: torch.Tensor, n_classes: int, task: Task) -> tuple[str, str] | None:
    """What is wrong with logits, and the remedy; None if they are those of the task."""
    n = len(images)
    if task == "next_token":
        if isinstance(output, torch.Tensor) and output.ndim == 3 and output.shape[:2] == images.shape[:2]:
            return None
        return (
            f'the net returns {described(output)} for inputs {tuple(images.shape)}; network.task = "next_token" '
            "needs one tensor of logits (n, tokens, vocabulary)",
            'Wrap the net in a module that returns the logits alone, or set task = "classes"',
        )
    wanted = f"one tensor of logits (n_images, n_classes), here ({n}, {n_classes})"
    if not isinstance(output, torch.Tensor):
        return (
            f"the net returns {described(output)} for {n} images; needed is {wanted}",
            "Wrap the net in a module that returns the logits alone",
        )
    if output.is_floating_point() and (output.shape == (n, n_classes) or (not n_classes and len(output) == n)):
        return None  # without labels the output has any shape
    remedy = f"Give the last layer {n_classes} outputs, one for each class; the factory is called with n_classes"
    if output.numel() == n:
        remedy += ". One logit for two classes is two outputs here"
    return f"the net returns {described(output)} for {n} images; needed is {wanted}", remedy


def _is_answer(output: Any, n: int) -> bool:
    """Whether an output is a tensor with a row for each image, which statistics need no more than."""
    return isinstance(output, torch.Tensor) and output.is_floating_point() and output.ndim > 0 and len(output) == n


def _saved_and_read(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a net through the bytes of a weights file."""
    from safetensors.torch import load, save

    return dict(load(save(state_arrays(module))))


def _close(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape:
        return False
    x, y = x.double(), y.double()
    scale = float(x.abs().nan_to_num(0, 0, 0).max()) if x.numel() else 0.0
    return torch.allclose(x, y, rtol=RELATIVE_ERROR, atol=RELATIVE_ERROR * scale, equal_nan=True)


def _first_row_close(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether the values of the first image agree; tensors without an axis of images have to agree as a whole."""
    if x.ndim and y.ndim and x.shape[1:] == y.shape[1:] and len(x) != len(y):
        n = max(1, min(len(x), len(y)))
        return _close(x[:n], y[:n])
    return _close(x, y)


def _named(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _fault(net: DistinctNet, found: str, remedy: str) -> Finding:
    return Finding(NAME, "fault", f"{net.name}: {found}", remedy=remedy)
