"""Data sets by name. To add one, write a :class:`~convergence.data.images.DataSource` and register it below.

Besides these names, ``torchvision:<data set>`` is a data set of torchvision, and ``package.module:factory`` a function
of the user that returns a map-style data set.

images.py        labelled images read by index, and batches with prefetching threads
digits.py        the 8 × 8 digits of scikit-learn
photos.py        patches of photographs of scikit-image and scikit-learn
cifar10.py       CIFAR-10 from a local folder
image_folder.py  images in class folders, as ImageNet
packed.py        images packed in one HDF5 file per split
arrays.py        images, vectors, series and tokens in arrays; given_arrays.py maps them into memory
text.py          documents of text files, cut into pieces of tokens; tokenizers.py
torchvision_sets.py  any classification data set of torchvision
factory_sets.py  a data set that a function of the user returns; map_style.py reads both of these
user_code.py     which functions of the user may run; named_function.py names one in a config
crops.py         square crops and normalisation of photographs
tables.py        bytes to floats by a look-up table, compiled
"""

from convergence.registry import Registry

DATA_SETS = Registry(
    "data set",
    {
        "digits": "convergence.data.digits:Digits",
        "photos": "convergence.data.photos:Photos",
        "cifar10": "convergence.data.cifar10:Cifar10",
        "image_folder": "convergence.data.image_folder:ImageFolder",
        "packed": "convergence.data.packed:Packed",
        "arrays": "convergence.data.arrays:Arrays",
        "text": "convergence.data.text:Text",
        "torchvision": "convergence.data.torchvision_sets:TorchvisionSet",
        "factory": "convergence.data.factory_sets:FactorySet",
    },
)
