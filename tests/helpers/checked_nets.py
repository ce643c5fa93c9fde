"""A data set of noise and nets with one planted fault each, for the checks before a run."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from convergence.data.images import ArrayImages, DataSource, Splits
from convergence.networks import NetworkSpec


class Noise(DataSource):
    """Random images of 2 × 6 × 6 in two classes."""

    name: Literal["noise"]
    n_train: int = 16
    n_test: int = 12
    label: int = Field(0, description="Added to all labels.")
    broken: bool = Field(False, description="Whether values are not finite.")

    def load(self) -> Splits:
        rng = np.random.default_rng(0)

        def images(n: int) -> ArrayImages:
            values = rng.standard_normal((n, 2, 6, 6)) * (np.inf if self.broken else 1)
            return ArrayImages(values, np.arange(n) % 2 + self.label, ("a", "b"))

        return Splits(images(self.n_train), images(self.n_test))


class Good(nn.Module):
    """conv1, batch norm, fc; ``calls`` counts the forward passes of all its nets."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def features(self, x):
        return functional.relu(self.norm(self.conv1(x))).mean((2, 3))

    def forward(self, x):
        Good.calls += 1
        return self.fc(self.features(x))


class AlwaysDropout(Good):
    def forward(self, x):
        return self.fc(functional.dropout(self.features(x), 0.5))


class RandomModule(Good):
    class Jitter(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    def __init__(self) -> None:
        super().__init__()
        self.jitter = self.Jitter()

    def forward(self, x):
        return self.fc(self.jitter(self.features(x)))


class CoupledNorm(Good):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class TupleOutput(Good):
    def forward(self, x):
        return super().forward(x), x


class DictOutput(Good):
    def forward(self, x):
        return {"logits": super().forward(x)}


class TupleInTraining(Good):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)


class OneLogit(Good):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1)


class ManyClasses(Good):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 10)


class TokenLogits(Good):
    def forward(self, x):
        return super().forward(x)[:, None, :].expand(-1, 3, -1)


class WrongChannels(Good):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)


class Raises(Good):
    def forward(self, x):
        raise KeyError("a key that nobody has")


class NotFinite(Good):
    def forward(self, x):
        return super().forward(x) / 0


class Tied(Good):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 2)
        self.again.weight = self.fc.weight

    def forward(self, x):
        features = self.features(x)
        return self.fc(features) + self.again(features)


class Lazy(Good):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(2)


class HiddenState(Good):
    def __init__(self) -> None:
        super().__init__()
        self.scales = torch.rand(4)

    def forward(self, x):
        return self.fc(self.features(x) * self.scales)


class OwnSeed(Good):
    def __init__(self) -> None:
        torch.manual_seed(5)
        super().__init__()


class NumpySeed(Good):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.fc.bias.copy_(torch.tensor(np.random.default_rng().random(2)))


class PythonRandomInTraining(Good):
    def forward(self, x):
        return super().forward(x) * (1 + random.random() if self.training else 1)


class UnusedLayer(Good):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)


class InfiniteGradient(Good):
    def forward(self, x):
        return self.fc(torch.sqrt(self.features(x) * 0))


class PooledNorm(Good):
    """Batch norm without positions: a batch of one image fails in training."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.fc(self.last(self.features(x)))


class FixedBatch(Good):
    """A view with a constant that only small batches fit."""

    def forward(self, x):
        if torch.fx._symbolic_trace.is_fx_tracing() or len(x) < 8:
            return super().forward(x)
        return self.fc(self.features(x).view(3, 4))


class ChannelsLast(Good):
    """conv1 gives (n, height, width, units)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()
        self.linear = nn.Linear(4, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.linear(self.conv1(x).permute(0, 2, 3, 1)).mean((1, 2)))


class OverSequence(Good):
    """A one-dimensional convolution: (n, units, positions)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()
        self.sequence = nn.Conv1d(4, 7, 3)
        self.fc = nn.Linear(7, 2)

    def forward(self, x):
        return self.fc(self.sequence(self.conv1(x).flatten(2)).mean(2))


class Recurrent(Good):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()
        self.rnn = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.fc(self.rnn(self.conv1(x).flatten(2).transpose(1, 2))[0][:, -1])


class Folded(Good):
    """Positions and images share the first axis of ``inner``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        rows = self.conv1(x).permute(0, 2, 3, 1).reshape(-1, 4)
        return self.fc(self.inner(rows).view(-1, 36, 4).mean(1))


class Summed(Good):
    """A module that returns one number for all images."""

    class Total(nn.Module):
        def forward(self, x):
            return x.sum()

    def __init__(self) -> None:
        super().__init__()
        self.summed = self.Total()

    def forward(self, x):
        features = self.features(x)
        return self.fc(features) + self.summed(features * 0)


class Untraceable(Good):
    def forward(self, x):
        return super().forward(x if x.mean() > -100 else -x)


class DeadLayer(Good):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.conv1.weight)
        nn.init.zeros_(self.conv1.bias)


class Chunked(Good):
    """An operation whose units cannot be traced."""

    def forward(self, x):
        return self.fc(torch.cumsum(self.features(x), 1))


class Planted(NetworkSpec):
    """A net of this file by the name of its class."""

    name: Literal["planted"]
    kind: str
    double: bool = False
    frozen: bool = False

    def build(self, image_shape, n_classes):
        net = globals()[self.kind]()
        net = net.double() if self.double else net
        return net.requires_grad_(False) if self.frozen else net
