"""Functional experiments: their settings, and whether nets can be split and their units permuted.

Settings that name unknown nets or comparisons are faults. What an experiment cannot do with a network is a warning: a
run continues without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from convergence.checks.context import CheckContext, DistinctNet
from convergence.checks.findings import Finding, shortened
from convergence.data.images import Splits
from convergence.errors import ConfigError, UserError
from convergence.functional.averaging import experiment as averaging
from convergence.functional.compression import experiment as compression
from convergence.functional.context import ExperimentContext
from convergence.functional.ensembling import experiment as ensembling
from convergence.functional.merging import experiment as merging
from convergence.functional.stitching import experiment as stitching
from convergence.functional.stitching.stitched_network import StitchedNetwork
from convergence.functional.surgery.permutations import permutation_groups
from convergence.functional.surgery.splitting import SplitNetwork
from convergence.functional.surgery.tracing import IMAGES, LOGITS
from convergence.networks import NetworkSpec
from convergence.training.process_group import ProcessGroup


class _OnCpu(ProcessGroup):
    """One process that computes on the CPU, where the checked nets are."""

    def device(self, name: str) -> torch.device:
        return torch.device("cpu")


class _Context(ExperimentContext):
    """An experiment with untrained nets, before anything of the run exists."""

    def __init__(self, context: CheckContext, name: str) -> None:
        self._check = context
        super().__init__(context.folder, context.folder.functional_folder / name, _OnCpu())

    def load(self, folder: Any, network: NetworkSpec) -> nn.Module:
        return self._net(network).to(self.device)

    def distinct(self, name: str) -> DistinctNet | None:
        """The checked network of a net, if it runs."""
        spec = self.described(name).spec
        return next((net for net in self._check.working_nets if net.spec == spec), None)

    def _net(self, network: NetworkSpec) -> nn.Module:
        for net in self._check.working_nets:
            if net.spec == network and net.module is not None:
                return net.module
        return self._check.build(network, 0).eval()

    def _splits(self) -> Splits:
        return self._check.splits


def check_stitching(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about stitching: pairs and comparisons, and each layer that is to be replaced."""

    def findings(experiment: _Context) -> Iterator[Finding]:
        config = experiment.config.stitch
        stitching.tasks(experiment)
        for comparison in experiment.chosen_comparisons(config.comparisons):
            for a, b in stitching.chosen_pairs(experiment):
                if experiment.layer_of(comparison, a) is None or experiment.layer_of(comparison, b) is None:
                    continue
                yield from _refusal(
                    "stitch", f'"{comparison.name}" of {a} from {b}',
                    functools.partial(StitchedNetwork, experiment, comparison, a, b),
                )  # fmt: skip

    yield from _checked(context, "stitch", findings)


def check_merging(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about merging: the nets, and which of their units cannot be permuted."""

    def findings(experiment: _Context) -> Iterator[Finding]:
        merging.tasks(experiment)
        yield from _permutations(experiment, "merge", [merging.chosen_nets(experiment)[0].name], "fixed")

    yield from _checked(context, "merge", findings)


def check_compression(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about compression: the nets, and which of their units cannot be pruned."""

    def findings(experiment: _Context) -> Iterator[Finding]:
        names = compression.chosen_nets(experiment)
        compression.learning_images(experiment, experiment.config.compress)
        yield from _permutations(experiment, "compress", names, "whole")

    yield from _checked(context, "compress", findings)


def check_ensembling(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about ensembles: members, and the layers at which a core is shared."""

    def findings(experiment: _Context) -> Iterator[Finding]:
        config, names = experiment.config.ensemble, ensembling.members(experiment)
        ensembling.tasks(experiment)
        for comparison in experiment.chosen_comparisons(config.comparisons):
            for name in names:
                layer, net = experiment.layer_of(comparison, name), experiment.distinct(name)
                if layer is not None and net is not None and net.module is not None:
                    yield from _refusal(
                        "ensemble", f'"{comparison.name}" of {net.name}',
                        functools.partial(
                            SplitNetwork, net.module, layer, context.samples,
                            context.experiment.layer_configs([layer])[layer],
                        ),
                    )  # fmt: skip

    yield from _checked(context, "ensemble", findings)


def check_averaging(context: CheckContext) -> Iterator[Finding]:
    """Yield findings about averaging: the net, the batch of each worker, and alignments."""

    def findings(experiment: _Context) -> Iterator[Finding]:
        averaging.tasks(experiment)
        return iter(())

    yield from _checked(context, "average", findings)


def _checked(context: CheckContext, name: str, findings: Callable[[_Context], Iterator[Finding]]) -> Iterator[Finding]:
    """The distinct findings of an experiment, and the errors of its settings."""
    if len(context.working_nets) < len(context.nets):
        return  # nets that do not run are reported
    others = [net.name for net in context.nets if not net.classifies]
    if others:
        yield Finding(
            name, "warning", f"the experiment will fail for {', '.join(others)}, which have no output for each class",
            remedy=f"Disable functional.{name}, or choose nets with an output for each class of the data",
        )  # fmt: skip
        return
    seen = set()
    try:
        for finding in findings(_Context(context, name)):
            if finding not in seen:
                seen.add(finding)
                yield finding
    except ConfigError as error:
        yield Finding(name, "fault", str(error), remedy=f"Correct [functional.{name}], or disable it")
    except UserError as error:
        yield Finding(
            name, "warning", f"the experiment will fail: {error}", remedy=f"Correct [functional.{name}], or disable it"
        )


def _refusal(name: str, what: str, action: Callable[[], object]) -> Iterator[Finding]:
    try:
        action()
    except UserError as error:
        yield Finding(
            name, "warning", f"{what} will be skipped: {shortened(error)}",
            remedy=f"Choose other comparisons in functional.{name}, or another net",
        )  # fmt: skip


def _permutations(experiment: _Context, name: str, nets: list[str], reason: str) -> Iterator[Finding]:
    """Whether the units of nets can be traced, and the layers whose units are refused."""
    for net in dict.fromkeys(filter(None, map(experiment.distinct, nets))):
        assert net.module is not None
        try:
            groups = permutation_groups(net.module, experiment.images.image_shape)
        except UserError as error:
            yield Finding(
                name, "warning", f"{net.name}: the experiment will fail: {shortened(error)}",
                remedy=f"Disable functional.{name}, or use another net",
            )  # fmt: skip
            continue
        for group in groups:
            why = group.fixed or (group.whole if reason == "whole" else "")
            if why and why not in (IMAGES, LOGITS):
                yield Finding(name, "note", f"{net.name}: units of {group.name} are not permuted: {why}")
