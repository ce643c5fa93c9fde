"""Clustering of the joined units of two nets, and shared subspaces of clusters.

graph.py            similarity graphs, normalised Laplacian, normalised cut
eigenvectors.py     the smallest eigenpairs of the Laplacian
k_means.py          k-means with all starts in parallel
partition.py        eigenvectors cut into clusters
spectral.py         spectral clusters
number.py           the number of clusters by its stability on halves of the images
hierarchical.py     spectral clusters that are split to a size limit
sparse_clusters.py  agglomerative clusters of sparse weights
stability.py        stability of clusters over image groups
subspaces.py        shared subspaces of clusters
"""
