"""The studies in studies/: their configs are valid, and what is missing ends in one sentence."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from convergence.config.load import read_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "studies").glob("*/study.toml"))


def module_at(path: Path) -> ModuleType:
    """A module outside of every package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_study(name: str, venv: Path) -> subprocess.CompletedProcess[str]:
    """``make study`` with an environment that counts as up to date."""
    command = ["make", "--no-print-directory", "-o", f"{venv}/.train", "study", f"NAME={name}", f"VENV={venv}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=environment, timeout=60)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_study_has_all_its_files_and_a_valid_config(path):
    config = read_config(path)
    assert config.name == path.parent.name
    for name in ("README.md", "requirements.txt", "prepare.py"):
        assert (path.parent / name).is_file()
    readme = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"make study NAME={config.name}" in readme
    assert "licence" in readme
    assert config.name in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {group.trained for group in config.nets} == {True, False}, "untrained nets are the baseline"


def test_unknown_study_is_refused_with_the_valid_names(tmp_path):
    done = make_study("nothing", tmp_path)
    assert done.returncode == 2
    assert 'NAME is "nothing"; valid are ani chars digits12 efficientnet spliceai waifu2x widths' in done.stdout


def test_missing_package_ends_the_study_in_one_sentence(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho no matching distribution >&2\nexit 1\n")
    python.chmod(0o755)
    log = ROOT / "studies" / "ani" / "pip.log"
    before = log.read_bytes() if log.exists() else None
    try:
        done = make_study("ani", tmp_path)
        assert "no matching distribution" in log.read_text()
    finally:
        log.unlink() if before is None else log.write_bytes(before)
    assert done.returncode == 2
    assert done.stdout.strip() == (
        "The packages in studies/ani/requirements.txt cannot be installed, so ani does not run here; pip's reasons are "
        "in studies/ani/pip.log."
    )


def test_net_of_ani_reads_one_atom_of_each_element():
    torch = pytest.importorskip("torch")
    nets = module_at(ROOT / "studies" / "ani" / "ani_nets.py")
    net = nets.ani()
    assert net(torch.zeros(3, 4, nets.N_INPUTS)).shape == (3, 1)
    assert not net(torch.zeros(3, 4, nets.N_INPUTS)).any(), "without biases, nothing comes of nothing"


def test_rotated_units_have_the_moments_of_the_units_in_their_places():
    torch = pytest.importorskip("torch")
    nets = module_at(ROOT / "studies" / "ani" / "ani_nets.py")
    before = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + torch.arange(6)
    with torch.no_grad():
        found = nets.in_another_basis(before)(before.float())
    torch.testing.assert_close(found.mean(0), before.mean(0).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std(0), before.std(0).float(), rtol=1e-4, atol=1e-4)
    matched = torch.corrcoef(torch.cat([before.float(), found], 1).T)[:6, 6:]
    assert matched.abs().max() < 0.999, "no unit is kept"


def test_weights_of_ncnn_go_to_their_places(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "studies" / "waifu2x")
    study = module_at(ROOT / "studies" / "waifu2x" / "prepare.py")
    truth = study.Upscaling()
    lines, content = ["7767517", "8 8", "Input input 0 1 in 0=4"], b""
    for name, module in truth.named_children():
        if not isinstance(module, torch.nn.LeakyReLU):
            weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
            half = name != "conv2"  # a layer with weights of 32 bits
            if name == "enlarge":
                weight = weight.transpose(1, 0, 2, 3)
            kind = "Deconvolution" if name == "enlarge" else "Convolution"
            lines.append(f"{kind} {name} 1 1 in out 0={len(bias)} 1=3 6={weight.size} 9=2")
            content += (study.FLOAT16 if half else 0).to_bytes(4, "little")
            content += weight.astype("<f2" if half else "<f4").tobytes() + bias.tobytes()
    read = study.net_of("\n".join(lines), content).state_dict()
    for name, values in truth.state_dict().items():
        expected = values if name.startswith("conv2") or name.endswith("bias") else values.half().float()
        torch.testing.assert_close(read[name], expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="bytes of weights"):
        study.net_of("\n".join(lines), content + b"more")


def test_share_of_units_matched_with_the_unit_of_the_same_number(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies")
    tables = importlib.import_module("findings_tables")
    r = np.array([[0.9, 0.1, 0.2], [0.0, 0.3, 0.8], [0.1, 0.7, 0.4]])
    matching = SimpleNamespace(unit_x=np.arange(3), unit_y=np.array([0, 2, 1]), correlation=np.array([0.9, 0.8, 0.7]))
    pair = SimpleNamespace(x="a1", y="a2", matching=matching)
    found = tables.KnownUnits.of(SimpleNamespace(correlation=lambda x, y: r), [pair, pair])
    assert found.own_unit == pytest.approx((1 / 3, 1 / 3))
    assert found.own_r == pytest.approx((1.6 / 3, 1.6 / 3))
    assert found.row() == ("33 % (33 to 33)", "0.533", "0.800")


def test_findings_join_tables_of_studies_and_refuse_wrong_claims(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "studies")
    page = importlib.import_module("findings")
    answers = {"a": [("conv1", "0.1")], "b": None}
    studies = [
        SimpleNamespace(
            name=name,
            finding=lambda question, rows=rows: rows and SimpleNamespace(columns=("layer", "matched r"), rows=rows),
        )
        for name, rows in answers.items()
    ]
    table = page.joined_table(studies, "Same units?", {"matched r": "r", "held out": "held out"})
    assert table.splitlines()[2:] == ["| a | conv1 | 0.1 | – |"]
    assert page.claim(True) == ""
    with pytest.raises(ValueError, match="claim"):
        page.claim(False)
