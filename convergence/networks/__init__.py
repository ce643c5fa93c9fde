"""Networks by name. A new one is a file with a :class:`~convergence.networks.spec.NetworkSpec` and a line below.

Besides these names, ``torchvision:<model>`` is any torchvision classifier and ``package.module:factory`` any callable
of the user's own that returns a ``torch.nn.Module``.
"""

from convergence.registry import Registry

NETWORKS = Registry(
    "network",
    {
        "small": "convergence.networks.small:Small",
        "alexnet": "convergence.networks.alexnet:AlexNet",
        "torchvision": "convergence.networks.external:TorchvisionNetwork",
        "factory": "convergence.networks.external:FactoryNetwork",
    },
)
