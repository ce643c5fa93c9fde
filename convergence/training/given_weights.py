"""Nets that are trained already: read their weights, fit them to the network, and import them into a run folder.

An imported net is a trained net like any other from then on: ``weights.safetensors`` and ``metrics.csv`` in its folder.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from convergence.config.nets import Net
from convergence.config.stages import TrainingConfig
from convergence.data.images import Splits
from convergence.errors import FileError
from convergence.io.files import remove_leftovers
from convergence.networks.checkpoints import read_checkpoint
from convergence.networks.devices import choose_device, reproducible_arithmetic
from convergence.networks.state_keys import FittedState, fit_state
from convergence.networks.weights import initialise, load_arrays, save_weights
from convergence.runs.weights_record import source_files
from convergence.settings import expand_path
from convergence.training.loop import baseline_row
from convergence.training.metrics import Row, write_metrics

logger = logging.getLogger(__name__)


def fitted_weights(net: Net, module: nn.Module, n_classes: int = 0) -> FittedState:
    """Read the weights of a net and fit them to its built module.

    ``n_classes`` is that of the data, for advice about a last layer of another size.

    Raises
    ------
    FileError
        for files that are missing, damaged, need code, or hold other keys or shapes than the net.
    """
    given = net.weights
    assert given is not None
    where = f"{net.name}, {given.source}"
    try:
        if given.named:
            state = net.spec.read_weights(given.source, source_files(net, given.download), module)
        else:
            state = read_checkpoint(expand_path(given.source), given.key).state
    except FileError as error:
        raise type(error)(f"{net.name}: {error}") from error  # MissingWeightsError stays one
    return fit_state(state, module, where, dict(given.key_map), net.spec.ignored_keys(), _of_shapes(net, n_classes))


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
    module = initialise(net.spec, 0, images.image_shape, images.n_classes)
    fitted = fitted_weights(net, module, images.n_classes)
    for note in fitted.notes:
        logger.info("  %s: %s", net.name, note)
    load_arrays(module, fitted.state)
    save_weights(module, folder)
    row = baseline_row(module, splits, choose_device(config.device), config.loader_workers)
    write_metrics(folder, [row])
    return row


def _of_shapes(net: Net, n_classes: int) -> str:
    """Advice for arrays of another shape: the number of outputs follows the data unless options set it."""
    if net.spec.code():
        return "Give the arguments of the factory that decide about shapes in network.options"
    if net.spec.name.partition(":")[0] in ("torchvision", "timm") and n_classes:
        return (
            f"The net was built with {n_classes} outputs, one for each class of the data; set network.options = "
            "{ num_classes = … } for another number"
        )
    return ""
