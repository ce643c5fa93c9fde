"""Pseudo-nets: the maps, the sums of the passes against the definition, and the reasons without them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from convergence.config.load import parse_config
from convergence.config.schema import ActivationsConfig, Experiment
from convergence.errors import FileError
from convergence.statistics.array_source import ArraySource
from convergence.statistics.file import ComparisonSums
from convergence.statistics.nonlinearities import NONLINEARITIES
from convergence.statistics.null_sums import NullSums, null_sums_plain
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import StatisticsPasses
from convergence.statistics.pseudo_nets import make_maps, n_null_positions, null_columns
from convergence.statistics.torch_source import DeviceArrays

N_IMAGES, DRAWS = 60, 3
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTHS = {"a": 5, "b": 7}


def pre_activations(width: int, seed: int, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Correlated pre-activations (n_images, width, …) with means and scales of their own."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((N_IMAGES, 3, *shape))
    mixed = np.einsum("ui,ni...->nu...", rng.standard_normal((width, 3)), common)
    z = mixed + 0.5 * rng.standard_normal(mixed.shape)
    about = rng.standard_normal((2, width) + (1,) * len(shape))
    return (z * np.exp(about[0]) + about[1]).astype(np.float32)


def experiment(folder: Path, function: str, shape: tuple[int, ...] = (), more: str = "", null: str = "") -> Experiment:
    """Two nets with the activations ``function`` of pre-activations."""
    of = NONLINEARITIES.get(function, lambda z: z)
    for k, (net, width) in enumerate(WIDTHS.items()):
        z = pre_activations(width, k, shape)
        np.save(folder / f"{net}-pre.npy", z)
        np.save(folder / f"{net}.npy", of(z))
    pre = 'pre = { a = { layer = "a-pre.npy" }, b = { layer = "b-pre.npy" } }' if function != "none" else ""
    return parse_config(f"""
name = "t"
[statistics]
groups = 5
batch_size = 7
positions = {9 if shape else '"all"'}
comparisons = [{{ name = "layer", layers = ["layer"]{more} }}]
pilot = 40
null = {{ draws = {DRAWS}{null} }}
[activations]
root = '{folder}'
nets = {{ a = {{ layer = "a.npy" }}, b = {{ layer = "b.npy" }} }}
nonlinearity = "{function}"
{pre}
""")


def on_device(given: ArraySource, function: str) -> ArraySource:
    """The source with tensors instead of arrays."""
    maps, of = given.maps, {"relu": torch.relu, "gelu": torch.nn.functional.gelu}[function]
    given.arrays = DeviceArrays(DEVICE)
    given.maps = lambda *arguments: {
        key: torch.from_numpy(values).to(DEVICE) for key, values in maps(*arguments).items()
    }
    given.check_pre_activations = lambda *arguments: None
    given.nonlinearities = dict.fromkeys(given.nonlinearities, of)
    return given


def passes_of(given: ArraySource, about: Experiment, folder: Path, order: list[int] | None = None) -> StatisticsPasses:
    """The finished pilot and first pass, with the image groups in an order."""
    partial = PartialResults(folder, "digest")
    partial.prepare()
    passes = StatisticsPasses(given, about.statistics, partial)
    for step in passes:
        if step.what == "mutual information":
            break
        for item in order if order and step.what == "sums" else step.items:
            partial.write(step.name(item), functools.partial(step.compute, item))
    return passes


def whole(null: NullSums) -> dict[str, np.ndarray]:
    """All blocks of the matrices."""
    rows = slice(0, len(null.unit_net))
    return {
        key: np.array([[getattr(null, key)[half, draw, rows] for draw in range(null.n_draws)] for half in (0, 1)])
        for key in ("products", "own")
    }


def in_memory(null: NullSums) -> NullSums:
    """The sums with matrices that can be indexed anyhow."""
    return dataclasses.replace(null, **whole(null))


def definition(given: ArraySource, passes: StatisticsPasses, sums: ComparisonSums, function: str) -> NullSums:
    """The sums of all samples in memory, with float64 pseudo-units."""
    reals, pseudos, halves = [], [], []
    for group in range(len(passes.groups)):
        indices = passes.groups.images(group)
        maps = given.maps(given.images.read(indices), indices)
        for _, real, pre, n_images, _ in given.null_samples(maps, indices, passes.config):
            parts = []
            for member, z in zip(passes.pseudo_units["layer"], pre, strict=True):
                m = {key: passes.source.arrays.to_host(array) for key, array in member.maps.arrays().items()}
                standard = (z.astype(np.float64) - m["centre"][:, None]) * m["scale"][:, None]
                values = np.stack([weights @ standard for weights in m["weights"]]) + m["offset"][:, :, None]
                values = NONLINEARITIES[function](values)
                pooled = passes.joined["layer"].pooled
                parts.append(values.reshape(*values.shape[:2], n_images, -1).mean(axis=3) if pooled else values)
            reals.append(real)
            pseudos.append(np.concatenate(parts, axis=1))
            halves.append(np.full(real.shape[1], group % 2))
    samples = np.concatenate(reals, 1), np.concatenate(pseudos, 2), np.concatenate(halves)
    return null_sums_plain(*samples, sums.null.unit_net, sums.shift, sums.null.shift)


@pytest.mark.parametrize(("function", "device"), [("relu", False), ("gelu", False), ("gelu", True)])
@pytest.mark.parametrize(("shape", "more"), [((), ""), ((4, 5), ""), ((4, 5), ", pool = true")])
def test_sums_of_the_passes_are_those_of_the_definition(tmp_path, function, shape, more, device):
    about = experiment(tmp_path, function, shape, more, ", positions = 4" if shape else "")
    given = ArraySource(about)
    passes = passes_of(on_device(given, function) if device else given, about, tmp_path / "partial")
    sums = passes.assembly.sums("layer")
    assert sums.null_kind == ("pre-activations",) * 2
    exact = definition(ArraySource(about), passes, sums, function)
    np.testing.assert_array_equal(sums.null.count, exact.count)
    assert sums.null.count.sum() == N_IMAGES * (4 if shape and not more else 1)
    for key in ("real_sums", "real_squares", "sums"):
        np.testing.assert_allclose(getattr(sums.null, key), getattr(exact, key), rtol=1e-4, atol=1e-3, err_msg=key)
    for key, values in whole(sums.null).items():
        np.testing.assert_allclose(values, getattr(exact, key), rtol=1e-4, atol=1e-3, err_msg=key)


def test_order_of_the_groups_changes_no_bit(tmp_path):
    about = experiment(tmp_path, "relu", (4, 5))
    first, second = (
        passes_of(ArraySource(about), about, tmp_path / name, order).assembly.sums("layer").null
        for name, order in (("a", None), ("b", [3, 1, 4, 0, 2]))
    )
    for key, values in whole(first).items():
        np.testing.assert_array_equal(values, whole(second)[key])
    np.testing.assert_array_equal(first.sums, second.sums)


def test_matrices_beyond_the_memory_are_accumulated_in_their_file(tmp_path, monkeypatch):
    about = experiment(tmp_path, "relu", (4, 5))
    usual = passes_of(ArraySource(about), about, tmp_path / "memory").assembly.sums("layer").null
    for module in ("partial_results", "assembly"):
        monkeypatch.setattr(f"convergence.statistics.{module}.MATRIX_BYTES", 100)
    monkeypatch.setattr("convergence.statistics.null_group_sums.PRODUCT_BYTES", 500)
    monkeypatch.setattr("convergence.statistics.null_group_sums.APPLY_ROWS", 10)
    monkeypatch.setattr("convergence.statistics.null_group_sums.PRODUCT_SAMPLES", 20)
    found = passes_of(ArraySource(about), about, tmp_path / "file").assembly.sums("layer").null
    for key, values in whole(usual).items():
        np.testing.assert_allclose(whole(found)[key], values, rtol=1e-5, atol=1e-4, err_msg=key)


def test_pseudo_units_have_the_moments_of_real_units():
    z = pre_activations(6, 0).astype(np.float64).T
    z[2] = 3.0
    covariance = np.cov(z, bias=True)
    maps = make_maps(z.mean(axis=1), covariance, 4, 0, "a.layer")
    pseudo = maps.apply(slice(0, 4), maps.weights, maps.standardise(z.astype(np.float32))).astype(np.float64)
    alive = np.array([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(maps.mixed, alive)
    for values in pseudo:
        np.testing.assert_allclose(values.mean(axis=1), z.mean(axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(values.std(axis=1)[alive], z.std(axis=1)[alive], rtol=1e-4)
        np.testing.assert_array_equal(values[2], 3.0)
        predictors = np.vstack([z[alive], np.ones(N_IMAGES)]).T
        rest = values[alive].T - predictors @ np.linalg.lstsq(predictors, values[alive].T, rcond=None)[0]
        np.testing.assert_allclose(rest, 0, atol=1e-4)
    other = make_maps(z.mean(axis=1), covariance, 4, 0, "b.layer")
    assert np.abs(other.weights - maps.weights).max() > 0.1
    assert np.abs(maps.weights[1] - maps.weights[0]).max() > 0.1


def test_rotation_of_uncorrelated_pre_activations_keeps_their_spectrum():
    sd = np.array([0.5, 1.0, 4.0])
    maps = make_maps(np.zeros(3), np.diag(sd**2), 1, 0, "a.layer")
    rotation = maps.weights[0] / sd[:, None]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("n", "wanted", "draws", "found"),
    [(1000, "auto", 8, 63), (49, "auto", 8, 16), (9, "auto", 8, 9), (100, "all", 8, 100), (100, 7, 8, 7)],
)
def test_positions_of_the_null(n, wanted, draws, found):
    assert n_null_positions(n, wanted, draws) == found
    columns = null_columns(n, found, 0)
    assert columns is None if n == found else (len(set(columns)) == found and columns.max() < n)


def test_missing_pre_activations_are_the_reason(tmp_path):
    about = experiment(tmp_path, "relu")
    without = about.model_copy(update={"activations": about.activations.model_copy(update={"pre": {}})})
    joined = ArraySource(without).joined["layer"]
    assert joined.null_kind == ("", "")
    assert joined.null_reason == ("the activations are given without pre-activations",) * 2
    linear = ArraySource(experiment(tmp_path, "none")).joined["layer"]
    assert (linear.null_kind, linear.null_reason, linear.rectified) == (("sums",) * 2, ("",) * 2, (False, False))


def test_other_pre_activations_are_refused(tmp_path):
    about = experiment(tmp_path, "relu")
    np.save(tmp_path / "b-pre.npy", pre_activations(7, 9))
    with pytest.raises(FileError, match=r"activations.pre.b.layer: .* differs .* by up to \d"):
        passes_of(ArraySource(about), about, tmp_path / "partial")
    np.save(tmp_path / "b-pre.npy", pre_activations(6, 9))
    with pytest.raises(FileError, match="has shape"):
        ArraySource(about)


def test_pre_activations_need_a_nonlinearity(tmp_path):
    about = experiment(tmp_path, "relu").activations.model_dump()
    with pytest.raises(ValueError, match="has pre-activations and no nonlinearity"):
        ActivationsConfig(**about | {"nonlinearity": "none"})
    with pytest.raises(ValueError, match='unknown layer "layers"'):
        ActivationsConfig(**about | {"nonlinearity": {"layers": "relu"}})


@pytest.mark.parametrize("name", list(NONLINEARITIES))
def test_nonlinearities_are_those_of_pytorch(name):
    functions = {"gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"), "tanh": torch.tanh}
    function = functions.get(name) or getattr(torch.nn.functional, name)
    x = np.linspace(-8, 8, 201).astype(np.float32)
    found = NONLINEARITIES[name](x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, function(torch.from_numpy(x)).numpy(), rtol=2e-5, atol=2e-6)


def test_units_of_tiny_scale_are_kept(tmp_path):
    about, usual_folder = experiment(tmp_path, "relu"), tmp_path / "arrays"
    usual_folder.mkdir()
    for name in ("a", "a-pre"):
        np.save(tmp_path / f"{name}.npy", np.load(tmp_path / f"{name}.npy") * np.float32(1e-25))
    tiny, usual = (
        in_memory(passes_of(ArraySource(one), one, tmp_path / name).assembly.sums("layer").null)
        for one, name in ((about, "tiny"), (experiment(usual_folder, "relu"), "usual"))
    )
    a = slice(0, 5)
    for null, scale in ((tiny, 1e25), (usual, 1.0)):
        variance = np.diag(null.within(None, 0, a)) * scale**2
        np.testing.assert_allclose(variance, np.diag(usual.within(None, 0, a)), rtol=1e-3)
        np.testing.assert_allclose(
            null.cross(0, 1, slice(5, 12), a) * scale, usual.cross(0, 1, slice(5, 12), a), rtol=1e-2, atol=1e-4
        )
