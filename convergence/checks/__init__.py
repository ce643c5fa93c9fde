"""Checks before the expensive part of a run: seconds that find what would fail after hours of training.

Every net of the config is built and run on a few images, without a trace in the results: checks have their own nets
and restore all random states. A stage names its checks (:class:`convergence.runs.stages.Stage`); each is a function of
a :class:`~convergence.checks.context.CheckContext` that yields findings.

findings.py          a finding: what was found, and the remedy
context.py           what the checks of a run share: images, distinct nets, facts about them
images.py            counts, classes and shapes of the images
nets.py              one net: its output, its weights, its seed; first_difference.py names the module at fault
given_weights.py     nets with given weights: their files, keys and preparation of images
training_step.py     steps of training, with the first and the last batch size of an epoch
layers.py            the layers that are compared and pictured
layer_listing.py     all layers of a net, to choose from
positions.py         masks of positions against layers and settings
experiments.py       the functional experiments: nets that can be split and permuted
resources.py         disk, memory, time and cores against this machine; needs.py estimates them
run.py               all checks of a run, and their kept outcome
"""

from convergence.registry import Registry

CHECKS = Registry(
    "check",
    {
        "images": "convergence.checks.images:check_images",
        "nets": "convergence.checks.nets:check_nets",
        "training": "convergence.checks.training_step:check_training",
        "layers": "convergence.checks.layers:check_layers",
        "positions": "convergence.checks.positions:check_positions",
        "pictures": "convergence.checks.layers:check_pictured_layers",
        "stitch": "convergence.checks.experiments:check_stitching",
        "merge": "convergence.checks.experiments:check_merging",
        "compress": "convergence.checks.experiments:check_compression",
        "ensemble": "convergence.checks.experiments:check_ensembling",
        "average": "convergence.checks.experiments:check_averaging",
        "resources": "convergence.checks.resources:check_resources",
    },
)
"""Checks by name, in the order in which they run; later ones use what earlier ones found."""
