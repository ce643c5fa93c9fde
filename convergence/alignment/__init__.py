"""Alignment of the units of two or more nets.

matching.py          one-to-one matching and semi-matching of two layers
soft_matching.py     soft matching by optimal transport
sparse.py            few-to-one prediction: LASSO path, forward selection, least squares
homotopy_kernels.py  compiled LASSO path by homotopy
sparse_kernels.py    compiled coordinate descent, refit, forward selection and loss
consensus.py         one-to-one alignment of all nets at once
shared_dimensions.py dimensions that nets share, by canonical correlations on held-out images
dictionaries.py      matching of large dictionaries over the most similar pairs of latents
dictionary_kernels.py compiled candidates and augmenting paths of the same
cycles.py            cycle consistency of pairwise matchings
embedding.py         classical multidimensional scaling of nets
"""
