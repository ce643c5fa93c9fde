"""Nets that are trained already: read their weights, fit them to the network, and import them into a run folder.

An imported net is a trained net like any other from then on: ``weights.safetensors`` and ``metrics.csv`` in its folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from convergence.config.nets import Net
from convergence.config.stages import TrainingConfig
from convergence.data.images import Splits
from convergence.errors import FileError
from convergence.io.files import remove_leftovers
from convergence.networks.checkpoints import read_checkpoint
from convergence.networks.devices import reproducible_arithmetic
from convergence.networks.state_keys import FittedState, OtherShapesError, fit_state
from convergence.networks.weights import initialise, load_arrays, save_weights
from convergence.runs.weights_record import source_files
from convergence.settings import expand_path
from convergence.training.loop import baseline_row
from convergence.training.metrics import Row, write_metrics

logger = logging.getLogger(__name__)


class GivenNet(NamedTuple):
    """A net that is trained already.

    Attributes
    ----------
    module : built in float32 on the CPU; :meth:`load` gives it the weights
    fitted : the weights by the keys of the module
    n_outputs : the ``n_classes`` that it was built with, if that is not the number of classes of the data; else 0
    """

    module: nn.Module
    fitted: FittedState
    n_outputs: int

    def load(self) -> nn.Module:
        """Load the weights into the module, and return it."""
        load_arrays(self.module, self.fitted.state)
        return self.module


def read_given(net: Net, image_shape: tuple[int, ...], n_classes: int, module: nn.Module | None = None) -> GivenNet:
    """Build a net that is trained already, and read and fit its weights.

    A last layer of another size than the classes of the data is no fault: the net is built again with the number of
    outputs of its weights. ``module`` is the net built for ``n_classes``, if it exists.

    Raises
    ------
    FileError
        for files that are missing, damaged, need code, or hold other keys or shapes than the net.
    """
    module = initialise(net.spec, 0, image_shape, n_classes) if module is None else module
    state = _read(net, module)
    try:
        return GivenNet(module, _fitted(net, state, module), 0)
    except OtherShapesError as error:
        n_outputs = error.outputs(n_classes)
        if n_outputs is None:
            raise
        module = initialise(net.spec, 0, image_shape, n_outputs)
        fitted = _fitted(net, state, module)
        note = f"the net has {n_outputs:,} outputs, as its weights, and the data have {n_classes:,} classes"
        return GivenNet(module, fitted._replace(notes=(*fitted.notes, note)), n_outputs)


def _read(net: Net, module: nn.Module) -> dict[str, torch.Tensor]:
    """The arrays of the weights of a net, by the keys of their files."""
    given = net.weights
    assert given is not None
    try:
        if given.named:
            return net.spec.read_weights(given.source, source_files(net, given.download), module)
        return read_checkpoint(expand_path(given.source), given.key).state
    except FileError as error:
        raise type(error)(f"{net.name}: {error}") from error  # MissingWeightsError stays one


def _fitted(net: Net, state: dict[str, torch.Tensor], module: nn.Module) -> FittedState:
    given = net.weights
    assert given is not None
    where = f"{net.name}, {given.source}"
    return fit_state(state, module, where, dict(given.key_map), net.spec.ignored_keys(), _of_shapes(net))


def import_net(folder: Path, net: Net, splits: Splits, config: TrainingConfig) -> Row:
    """Write the weights of a net that is trained already, and its accuracy on held-out images, to a folder.

    Returns
    -------
    The row of metrics; without loss and accuracy for images without labels, and for nets without an output for each
    class.
    """
    reproducible_arithmetic(config.threads)
    remove_leftovers(folder)
    images = splits.test
    given = read_given(net, images.image_shape, images.n_classes)
    for note in given.fitted.notes:
        logger.info("  %s: %s", net.name, note)
    module = given.load()
    save_weights(module, folder, n_outputs=given.n_outputs)
    row = baseline_row(module, splits, config, net.spec.trained_for())
    write_metrics(folder, [row])
    return row


def _of_shapes(net: Net) -> str:
    """Advice for arrays of another shape."""
    if net.spec.code():
        return "Give the arguments of the factory that decide about shapes in network.options"
    return "Give the settings of the network that decide about shapes"
