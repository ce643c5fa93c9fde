"""Nets that are trained already: their files are here, fit their networks key by key, and differ from each other.

Another preparation of images than the weights of a model zoo ask for is a warning, and so are nets that are similar
place by place without a common name of their initial weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from convergence.checks.context import CheckContext, DistinctNet
from convergence.checks.findings import Finding
from convergence.config.schema import Net
from convergence.errors import FileError, UserError
from convergence.networks.common_origin import Sample, common_origins, sample_of
from convergence.networks.weight_files import MissingWeightsError
from convergence.networks.weights import arrays_sha256
from convergence.training.given_weights import read_given

NAME = "nets"


def check_given_files(context: CheckContext) -> Iterator[Finding]:
    """Find and record the files of all nets with given weights."""
    try:
        context.folder.weights.check(lambda net: _is_imported(context, net))
    except MissingWeightsError as error:
        if not context.elsewhere:
            raise
        yield Finding(NAME, "note", f"weights were not checked, because they are not on this machine: {error}")


def check_given(context: CheckContext, net: DistinctNet, module: nn.Module) -> Iterator[Finding]:
    """Findings about the weights of a network's nets; ``module`` is the network built for the classes of the data.

    If the first of its nets has given weights, ``net.module`` is set to the net with these weights.
    """
    seen: dict[str, Net] = {}
    samples: dict[str, Sample] = {}
    images = context.images
    for one in net.given:
        try:
            given = read_given(one, images.image_shape, images.n_classes, module)
            fitted = given.fitted
        except MissingWeightsError:
            if context.elsewhere or _is_imported(context, one):
                continue  # reported, or not needed any more
            raise
        except FileError as error:
            yield Finding(NAME, "fault", str(error))
            continue
        except UserError as error:
            yield Finding(NAME, "fault", f"{one.name}: {error}")
            continue
        for note in fitted.notes:
            yield Finding(NAME, "note", f"{one.name}: {note}")
        other = seen.setdefault(arrays_sha256(fitted.state), one)
        if other is not one:
            yield Finding(
                NAME, "fault", f"{other.name} and {one.name} have equal weights, in different files", remedy="List "
                "each net once",
            )  # fmt: skip
        samples[one.name] = sample_of(fitted.state)
        if one is net.nets[0]:
            net.module, net.n_outputs = given.load(), given.n_outputs
        yield from _check_preprocessing(context, one)
    yield from _check_origins({one.name: one for one in net.given}, samples)


def _check_origins(nets: dict[str, Net], samples: dict[str, Sample]) -> Iterator[Finding]:
    """A warning for nets that were trained from the same weights, without saying so."""
    found = [
        pair for pair in common_origins(samples)
        if nets[pair.first].initialisation != nets[pair.second].initialisation
    ]  # fmt: skip
    if found:
        more = f"; {len(found) - 1} other pairs are alike, too" if len(found) > 1 else ""
        yield Finding(
            NAME, "warning", f"{max(found, key=lambda pair: pair.r)}{more}",
            remedy="If they were trained or fine-tuned from the same weights, they are no nets trained apart: give "
            'them a common name, initialisations = "base"',
        )  # fmt: skip


def _check_preprocessing(context: CheckContext, net: Net) -> Iterator[Finding]:
    wanted = net.spec.preprocessing()
    if wanted is None:
        return
    differing = wanted.differences(context.experiment.images.model_dump())
    if differing:
        lines = ", ".join(f"{name} = {_toml(value)}" for name, value in differing.items())
        yield Finding(
            NAME, "warning", f"{net.name}: its weights were trained on images that were prepared otherwise than [data] "
            f"says", remedy=f"Set in [data]: {lines}; or keep your settings if that is on purpose",
        )  # fmt: skip


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _is_imported(context: CheckContext, net: Net) -> bool:
    return context.folder.state(context.folder.train_task(net)) == "done"
