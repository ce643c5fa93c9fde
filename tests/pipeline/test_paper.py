"""The paper's tables: mapping layers trained by SGD on planted problems, and the verb on a finished run."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from convergence.alignment import mapping_sgd
from convergence.alignment.mapping_sgd import SHORT_STEPS, train_mapping
from convergence.alignment.sparse import dense_fit, lasso_path
from convergence.cli import main
from convergence.errors import UserError
from convergence.paper import readings
from convergence.paper.published import CONV1, LAYERS, RECOVERED, TABLE_LAMBDAS
from convergence.paper.readings import LAMBDAS, laplacian
from convergence.paper.run import choose_pair
from convergence.paper.tables import WIDTH, power, text_table
from convergence.provenance import ANALYSIS_SCHEMA_VERSION
from convergence.results import ComparisonResults, PairResults, read_analysis
from tests.helpers.analysis_rows import rewrite
from tests.helpers.hdf5_edits import resealed

pytestmark = pytest.mark.slow

REFERENCE = Path(os.environ.get("CONVERGENCE_REFERENCE", "conv1_correlations.npz"))


def correlations(covariance: np.ndarray, n_x: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r_xx, r_xy, r_yy of a joint covariance whose first n_x units are x."""
    scale = 1 / np.sqrt(np.diag(covariance))
    joint = covariance * np.outer(scale, scale)
    return joint[:n_x, :n_x], joint[:n_x, n_x:], joint[n_x:, n_x:]


@pytest.fixture(scope="module")
def ill_conditioned() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours in x hardly differ, and each unit of y is one of x with noise of its own, in another order."""
    rng = np.random.default_rng(3)
    n = 64
    r_xx = 0.9 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    order = rng.permutation(n)
    r_yy = r_xx[np.ix_(order, order)] + 0.2 * np.eye(n)
    return correlations(np.block([[r_xx, r_xx[:, order]], [r_xx[order], r_yy]]), n)


def test_a_short_training_falls_with_a_penalty_and_a_long_one_rises(ill_conditioned):
    r_xx, r_xy, r_yy = ill_conditioned
    lambdas = np.array([0, 1e-4, 3e-4, 1e-3, 3e-3])
    optimum = 0.5 * (1 - 1 / 1.2)
    exact = np.append(optimum, lasso_path(r_xx, r_xy, lambdas[1:] * r_xy.shape[1]).loss.mean(axis=1))
    assert np.all(np.diff(exact) > 0)

    found = train_mapping(r_xx, r_xy, r_yy, lambdas, 4000, checkpoints=(SHORT_STEPS,))
    short, long = found.loss
    assert found.steps == (SHORT_STEPS, 4000)
    assert short[0] > 1.3 * optimum
    assert short.argmin() == 3, "a penalty lowers the loss of what has not converged"
    assert short[3] < 0.9 * short[0]
    np.testing.assert_allclose(long, exact, rtol=0.005)
    assert np.all(np.diff(long[1:]) > 0)
    assert long[0] < long[2], "what minibatches leave of the fall is below 3e-4"
    np.testing.assert_allclose(found.n_above[1, 1:], 1, atol=0.1)
    assert np.all(found.n_above[0] > 5)
    partner = np.abs(found.weights[3]).argmax(axis=1)
    np.testing.assert_array_equal(partner, r_xy.argmax(axis=0))


def test_without_minibatches_the_optimum_is_reached(ill_conditioned):
    r_xx, r_xy, r_yy = ill_conditioned
    alphas = np.array([1e-3, 1e-2, 0.1, 0.3])
    path = lasso_path(r_xx, r_xy, alphas)
    lambdas = np.append(0, alphas / r_xy.shape[1])
    found = train_mapping(r_xx, r_xy, r_yy, lambdas, 6000, batch=None)
    expected = np.append(dense_fit(r_xx, r_xy)[1].mean(), path.loss.mean(axis=1))
    np.testing.assert_allclose(found.loss[-1], expected, atol=1e-6)
    np.testing.assert_allclose(found.weights[3:], path.weights[2:], atol=1e-4)
    np.testing.assert_allclose(found.n_above[-1, 1:], path.n_above.mean(axis=1), atol=0.05)


def test_duplicated_units_do_not_keep_the_optimum_away():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((500, 5))
    samples = np.hstack([half, half, half @ rng.standard_normal((5, 3)) + rng.standard_normal((500, 3))])
    r_xx, r_xy, r_yy = correlations(np.cov(samples, rowvar=False), 10)
    found = train_mapping(r_xx, r_xy, r_yy, [0, 0.01], 2000, batch=None)
    expected = [dense_fit(r_xx, r_xy)[1].mean(), lasso_path(r_xx, r_xy, [0.03]).loss.mean()]
    np.testing.assert_allclose(found.loss[-1], expected, atol=1e-6)


def test_training_is_the_plain_update_sample_by_sample(ill_conditioned):
    r_xx, r_xy, r_yy = ill_conditioned
    n, lambdas, steps, batch = len(r_xx), (0.0, 2e-3), 25, 40
    found = train_mapping(r_xx, r_xy, r_yy, lambdas, steps, batch=batch, learning_rate=0.05, seed=7)
    for k, lam in enumerate(lambdas):
        generator = np.random.default_rng(7)
        weights = generator.standard_normal((n, n)) / np.sqrt(n)
        velocity = np.zeros_like(weights)
        root = mapping_sgd.joint_root(r_xx, r_xy, r_yy)
        for _ in range(steps):
            samples = generator.standard_normal((batch, root.shape[1])) @ root.T
            weights, velocity = mapping_sgd.sgd_step_plain(
                weights, velocity, samples[:, :n], samples[:, n:], lam, learning_rate=0.05
            )
        np.testing.assert_allclose(found.weights[k], weights, atol=1e-12)
        trace = np.trace(r_yy - 2 * weights @ r_xy + weights @ r_xx @ weights.T)
        assert found.loss[-1, k] == pytest.approx(trace / (2 * n), abs=1e-12)


def test_the_root_of_the_joint_correlations_leaves_negative_directions_out(ill_conditioned):
    r_xx, r_xy, r_yy = ill_conditioned
    root = mapping_sgd.joint_root(r_xx, r_xy, r_yy)
    np.testing.assert_allclose(root @ root.T, np.block([[r_xx, r_xy], [r_xy.T, r_yy]]), atol=1e-12)
    impossible = np.array([[1.0, 0.9], [0.9, 1.0]])
    root = mapping_sgd.joint_root(impossible, np.array([[0.9], [-0.9]]), np.ones((1, 1)))
    assert root.shape == (3, 2)


def test_the_same_seed_gives_the_same_bits(ill_conditioned):
    one, again, other = (train_mapping(*ill_conditioned, 1e-4, 20, seed=seed).weights for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_rate_that_is_too_high_is_said(ill_conditioned):
    stable = mapping_sgd.stable_rate(ill_conditioned[0], 64)
    with pytest.raises(UserError, match=r"diverged by step .* at lambda 0: learning rate .* is too high"):
        train_mapping(*ill_conditioned, 0.0, 400, learning_rate=1.3 * stable)
    train_mapping(*ill_conditioned, 0.0, 100, batch=1024, learning_rate=0.7 * stable)
    with pytest.raises(UserError, match="diverged"):
        train_mapping(*ill_conditioned, 0.0, 400, learning_rate=1e60)


def test_few_targets_of_many_units_get_a_lower_rate():
    r_xx = np.full((60, 60), 0.95) + 0.05 * np.eye(60)
    r_xy = np.full((60, 1), 0.9)
    found = train_mapping(r_xx, r_xy, np.ones((1, 1)), 0.0, 300)
    assert found.learning_rate < mapping_sgd.LEARNING_RATE
    assert found.loss[-1, 0] < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": -1.0}, "at least 0"),
        ({"lam": []}, "at least 0"),
        ({"steps": 0}, "steps 0"),
        ({"batch": 0}, "batch 0"),
        ({"learning_rate": 0.0}, "positive"),
        ({"checkpoints": (11,)}, "from 1 to the number of steps, 10"),
        ({"r_xy": np.zeros((3, 2))}, "do not belong together"),
        ({"r_xx": np.full((2, 2), np.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, message):
    given = {"r_xx": np.eye(2), "r_xy": np.full((2, 2), 0.1), "r_yy": np.eye(2), "lam": 0.0, "steps": 10}
    with pytest.raises(UserError, match=message):
        train_mapping(**(given | change))


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE}: CONVERGENCE_REFERENCE says where the matrices are")
def test_the_short_training_gives_the_published_losses_on_the_recovered_matrices():
    with np.load(REFERENCE) as file:
        r_xx, r_xy, r_yy = file["A"], file["C"], file["B"]
    published = CONV1.last_500.by_lambda
    found = train_mapping(r_xx, r_xy, r_yy, list(published), SHORT_STEPS)
    np.testing.assert_allclose(found.loss[-1], list(published.values()), atol=0.006)
    weights = [found.n_above[-1][list(published).index(value)] for value in CONV1.weights_above.by_lambda]
    np.testing.assert_allclose(weights, list(CONV1.weights_above.by_lambda.values()), rtol=0.1)
    assert laplacian(r_xx, r_xy, r_yy).signed_smallest == pytest.approx(
        RECOVERED["conv1"].smallest_signed_eigenvalue, abs=0.01
    )


def test_published_numbers_fit_each_other():
    for layer in LAYERS.values():
        assert layer.semi_matching.value > layer.matching.value
        assert tuple(layer.table.by_lambda) == TABLE_LAMBDAS
        for best_first in (layer.information_best, layer.information_worst):
            assert list(best_first) == sorted(best_first, reverse=True)
        for curve in (layer.table, layer.last_500, layer.weights_above):
            assert curve is None or set(curve.by_lambda) <= set(LAMBDAS)
        if layer.last_500 is not None:
            pairs = zip(layer.table.at(TABLE_LAMBDAS), layer.last_500.at(TABLE_LAMBDAS), strict=True)
            assert all(abs(a - b) < 0.01 for a, b in pairs if None not in (a, b))
    exact, theirs = RECOVERED["conv1"].loss.by_lambda, CONV1.last_500.by_lambda
    assert all(exact[value] < theirs[value] for value in exact)
    assert list(exact.values()) == sorted(exact.values())


def test_a_wide_table_goes_on_below():
    header = ("name", *(f"column {k}" for k in range(14)))
    text = text_table(header, [("a row", *("x" * (5 + k) for k in range(14)))], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("a row") > 1
    assert all(text.count(f"column {k} ") + text.count(f"column {k}\n") == 1 for k in range(14))
    assert max(map(len, text_table(("a", "b"), [("y" * 300, "z" * 300)]).splitlines())) == WIDTH
    assert [power(value) for value in (0, 1e-4, 10**-2.6)] == ["0", "1e-4", "10^-2.6"]


def test_pair_is_trained_one_else_first_unless_it_is_named():
    none = dict.fromkeys(
        ("same_init", "same_order", "same_data", "same_partner", "same_partner_error", "same_absolute", "mutual_best",
         "never_chosen", "significant_xy", "significant_yx", "null_reason_xy", "null_reason_yx", "same_halves",
         "mean_activations_p", "distributions", "_source")
    )  # fmt: skip
    mixed, untrained = PairResults("a", "b", "mixed", **none), PairResults("b", "c", "untrained", **none)
    nets = ("a", "b", "c")
    about = {"sources": (), "layers": (), "epochs": (), "widths": (), "left_out": {}, "source": None}
    layer = ComparisonResults("conv1", nets, (True, False, False), of_net=nets, pairs=(mixed, untrained), **about)
    assert choose_pair(layer, None) is mixed
    assert choose_pair(layer, ("c", "b")) is untrained
    assert choose_pair(layer, ("a", "c")) is None
    over_time = replace(layer, of_net=("a", "b", "b"))
    assert choose_pair(over_time, None) is None
    assert choose_pair(over_time, ("a", "b")) is mixed


@pytest.fixture(scope="module")
def shown(tiny_run, tmp_path_factory) -> tuple[str, Path]:
    """What the verb prints for the tiny run in a process of its own, and where its figures are."""
    out = tmp_path_factory.mktemp("paper")
    code = (
        "import sys; from convergence.cli import main;"
        f"code = main(['paper', {str(tiny_run)!r}, '--steps', '300', '--out', {str(out)!r}]);"
        "assert not {'torch', 'mpi4py'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def first_pair(tiny_run: Path, layer: str) -> PairResults:
    return read_analysis(tiny_run / "analysis.h5").comparison(layer).pair("net1", "net2")


def row(text: str, *starts: str) -> str:
    """The one line that begins so."""
    (line,) = [line for line in text.splitlines() if re.match(r"\s+".join(map(re.escape, starts)), line)]
    return line


def test_the_alignment_table_holds_what_the_file_says(shown, tiny_run):
    for layer in ("conv1", "conv2", "fc1"):
        found = first_pair(tiny_run, layer)
        line = row(shown[0], layer, f"{len(found.units_x)}, {len(found.units_y)}")
        for measure in ("semi_matching", "matching"):
            e = found.need(measure)
            assert f"{e.value:.3f} ± {e.standard_error:.3f} ({e.null:.3f} ± " in line
        assert f" {100 * found.same_partner:.0f} % " in line
        assert line.endswith(f" {100 * np.mean(found.semi_matching('xy').correlation < 0.5):.0f} %")
    assert "0.703 N (0.363 ± 0.008 D)" in row(shown[0], "  paper's conv1", "96, 96")
    assert row(shown[0], "  paper's conv5", "256, 256").endswith("75 % P")
    assert max(map(len, shown[0].splitlines()[:-1])) <= WIDTH


def test_losses_in_table_and_figure_are_those_of_the_readings(shown, tiny_run):
    text, out = shown
    with (out / "fc1-penalty.csv").open(encoding="utf-8", newline="") as file:
        rows = [line for line in csv.DictReader(file) if line["layer"] == "fc1"]
    exact = {float(line["lambda"]): float(line["loss"]) for line in rows if line["reading"] == "exact LASSO"}
    dense = first_pair(tiny_run, "fc1").need("all_units_loss").value
    assert exact[0.0] == pytest.approx(dense, abs=1e-9)
    assert list(exact.values()) == sorted(exact.values())
    assert list(exact) == sorted(LAMBDAS)
    sgd = {float(line["lambda"]): float(line["loss"]) for line in rows if "300 steps" in line["reading"]}
    assert all(sgd[value] > exact[value] for value in (0.0, 1e-5))
    for losses, name in ((exact, "exact LASSO"), (sgd, "SGD, 300 steps")):
        printed = "  ".join(f"{losses[value]:.4f}" for value in TABLE_LAMBDAS)
        assert any(line.split(name)[-1].strip() == printed for line in text.splitlines() if name in line)
    analysed = first_pair(tiny_run, "fc1").sparse("xy")
    known = dict(zip(analysed.path.alpha / len(analysed.target), analysed.path.loss, strict=True))
    inside = {penalty: loss for penalty, loss in known.items() if 1e-5 <= penalty <= 0.1}
    assert inside
    for penalty, loss in inside.items():
        below, above = max(v for v in exact if v <= penalty), min(v for v in exact if v >= penalty)
        assert exact[below] - 1e-9 <= loss <= exact[above] + 1e-9, "between its neighbours on the path"


def test_information_activations_and_accuracies_are_those_of_the_files(shown, tiny_run):
    text, _ = shown
    nats = first_pair(tiny_run, "conv2").mutual_information.best_nats
    best = " ".join(f"{value:.2f}"[1:] for value in sorted(nats, reverse=True)[:8])
    assert best in text
    top = read_analysis(tiny_run / "analysis.h5").comparison("conv1").units("net1").mean.max()
    with h5py.File(tiny_run / "statistics.h5") as file:
        accuracy = file["nets/held_out_accuracy"][0]
    line = row(text, "net1", f"{100 * accuracy:.2f} %")
    assert f"{top:.3f} ± " in line
    assert "98.4 N" in row(text, "paper's Net1")
    # 200 images, of which each gives at most 20 positions of a map to the joint histograms, and one of a vector.
    assert "conv1: K = 10, N = 4,000: the paper's 0.018 against 0.01 nats" in text
    assert "fc1: K = 10, N = 200: the paper's 0.36 against 0.2 nats" in text


def test_corrections_name_every_layer_and_figures_are_there(shown):
    text, out = shown
    corrections = text[text.index("Corrections of the paper") :]
    for number in range(1, 6):
        assert f"\n{number}. " in corrections
    assert corrections.count("   conv2: ") == 5
    assert re.search(r"fc1: smallest eigenvalue of D − C -\d", corrections)
    assert text.splitlines()[-1] == str(out.resolve())
    for layer in ("conv1", "conv2", "fc1"):
        for name in ("matrices", "matched", "penalty"):
            for ending in ("svg", "png", "csv"):
                assert (out / f"{layer}-{name}.{ending}").stat().st_size > 0
    assert (out / "tables.txt").read_text(encoding="utf-8").strip() in text


def test_a_config_stands_for_its_run_and_another_pair_can_be_shown(tiny_config, tiny_copy, capsys):
    options = ["--runs", str(tiny_copy.parent), "--steps", str(SHORT_STEPS)]
    assert main(["paper", str(tiny_config), *options, "--pair", "untrained2", "untrained1"]) == 0
    text = capsys.readouterr().out
    assert "untrained1 to untrained2 (untrained)" in text
    assert (tiny_copy / "paper" / "conv1-penalty.svg").exists()

    changed = tiny_config.with_name("changed.toml")
    changed.write_text(tiny_config.read_text(encoding="utf-8").replace("rotations = 3", "rotations = 4"), "utf-8")
    assert main(["paper", str(changed), *options]) == 2
    assert '"analyze" is stale for this config' in capsys.readouterr().err


def test_a_run_without_joint_histograms_says_so(tiny_copy, capsys):
    rewrite(tiny_copy / "analysis.h5", "conv1", "mutual_information", lambda found: found[:0])
    assert main(["paper", str(tiny_copy), "--steps", str(SHORT_STEPS)]) == 0
    text = capsys.readouterr().out
    assert "not counted" in row(text, "conv1", "not")
    assert "conv1: K = " not in text
    assert "conv2: K = 10" in text


def test_an_analysis_of_an_older_version_has_to_be_made_again(tiny_copy, capsys):
    with resealed(tiny_copy / "analysis.h5") as file:
        file.attrs["schema_version"] = 1
    assert main(["paper", str(tiny_copy)]) == 2
    assert f"version 1 of its schema, and version {ANALYSIS_SCHEMA_VERSION} is needed" in capsys.readouterr().err
    assert not (tiny_copy / "paper").exists()


def test_layers_too_wide_for_mapping_layers_have_the_rest(tiny_copy, monkeypatch, capsys):
    layers = ("conv1", "conv2", "fc1")
    pairs = {layer: first_pair(tiny_copy, layer) for layer in layers}
    widths = {layer: max(len(pair.units_x), len(pair.units_y)) for layer, pair in pairs.items()}
    wide = max(widths.values())
    for widest, predicted in ((wide, True), (wide - 1, False)):
        monkeypatch.setattr(readings, "WIDEST", widest)
        out = tiny_copy / f"paper-{widest}"
        assert main(["paper", str(tiny_copy), "--steps", str(SHORT_STEPS), "--out", str(out)]) == 0
        text = capsys.readouterr().out
        assert ("left out: more than" in text) == (not predicted)
        drawn = {f"{layer}-penalty.svg" for layer in layers if widths[layer] <= widest}
        assert {path.name for path in out.glob("*-penalty.svg")} == drawn
        assert "fc1: smallest eigenvalue" in text


def test_invalid_arguments_are_explained(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = ["--runs", str(tiny_run.parent)]
    (tmp_path / "runs" / "unfinished").mkdir(parents=True)
    shutil.copy(tiny_run / "statistics.h5", tmp_path / "runs" / "unfinished")
    for arguments, words in (
        (["paper", "runs/tini", *runs], 'there is no such run folder or config. Below .*did you mean "tiny"'),
        (["paper", "runs/other"], "Give the folder of a run, or a .toml file"),
        (["paper", "runs/unfinished"], "analysis.h5: there is no such file.*convergence analyze"),
        (["paper", str(tiny_run), "--pair", "net1", "nett2"], 'no net nett2; did you mean "net2"'),
        (["paper", str(tiny_run), "--pair", "net1", "net1"], "two different nets"),
        (["paper", str(tiny_run), "--steps", "5"], "at least as many steps as the short: 140"),
        (["paper", str(tiny_run), "--out", str(tiny_run / "analysis.h5")], "is a file"),
    ):
        assert main(arguments) == 2
        assert re.search(words, capsys.readouterr().err), arguments
