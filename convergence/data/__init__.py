"""Data sets by name. A new one is a file with a :class:`~convergence.data.images.DataSource` and a line below."""

from convergence.registry import Registry

DATA_SETS = Registry(
    "data set",
    {
        "digits": "convergence.data.digits:Digits",
        "photos": "convergence.data.photos:Photos",
        "cifar10": "convergence.data.cifar10:Cifar10",
        "image_folder": "convergence.data.image_folder:ImageFolder",
        "packed": "convergence.data.packed:Packed",
    },
)
