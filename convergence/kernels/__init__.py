"""What compiled kernels share.

jit.py      the decorator of every kernel: compiled code is cached where that is possible
lanes.py    sums whose order is written in the source, so that every copy of a kernel gives the same bits
simd.py     vectors of bits for counting
"""
