"""Threads by the work of a net, and max pooling in the faster layout."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convergence.networks.work import MOST_THREADS, multiply_adds, quick_pooling, threads_for, use_threads


@pytest.mark.parametrize(
    "options", [{}, {"stride": 1, "padding": 1}, {"kernel_size": 3, "stride": 2, "ceil_mode": True}]
)
def test_pooling_has_the_bits_of_torch_forwards_and_backwards(options):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(**{"kernel_size": 2} | options), nn.Conv2d(8, 2, 2))
    quick = quick_pooling(copy.deepcopy(plain))
    copied = copy.deepcopy(quick_pooling(quick))
    copied[1].kernel_size, copied[1].padding = 1, 0  # the copy pools by itself
    images = torch.randn(5, 3, 12, 11)
    images[1, 0, 3, 4] = torch.nan
    with torch.no_grad():
        maps = plain[0](images)
        assert torch.equal(plain[1](maps).nan_to_num(7.0), quick[1](maps).nan_to_num(7.0))
        assert quick[1](maps).is_contiguous()
    found = []
    for net in (plain, quick):
        given = images.clone().requires_grad_()
        answer = net(given)
        answer.nan_to_num().sum().backward()
        assert answer.is_contiguous()
        found.append([answer.detach(), given.grad, *(p.grad for p in net.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    assert copied[1](images).shape != quick[1](images).shape


def test_threads_depend_on_the_work_and_keep_mode_and_random_state():
    net = nn.Sequential(nn.Linear(10, 100), nn.Dropout(), nn.Linear(100, 10)).train()
    assert multiply_adds(net, torch.zeros(1, 10)) == 2000
    before = torch.get_rng_state()
    dtype = np.dtype(np.float32)
    assert threads_for("auto", net, (10,), dtype, 64) == 1
    assert threads_for("auto", net, (10,), dtype, 100_000) == MOST_THREADS
    assert threads_for(7, net, (10,), dtype, 64) == 7
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in net.modules())


def test_multiply_adds_are_half_of_the_flops_that_torch_counts():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.MaxPool2d(2), nn.Flatten(2), nn.Linear(9, 6))
    attention = nn.MultiheadAttention(6, 2, batch_first=True).eval()

    def answer(images):
        tokens = net(images)
        return attention(tokens, tokens, tokens)[0] @ tokens.mT

    images = torch.randn(2, 4, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        answer(images)
    assert multiply_adds(answer, images) == counter.get_total_flops() // 2 > 0


def test_threads_of_products_are_set_where_openmp_has_the_number_already(monkeypatch):
    """A limit of threadpoolctl lowers the number that torch reports, and MKL keeps two threads and their bits."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        use_threads(1)
        numbers = {line.strip() for line in torch.__config__.parallel_info().splitlines() if "get_max_threads" in line}
        assert numbers
        assert {line.rpartition(" ")[2] for line in numbers} == {"1"}
    finally:
        torch.set_num_threads(before)
