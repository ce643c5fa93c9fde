"""Checkpoints of many programs: read as plain arrays, and fitted to a net key by key."""

import argparse
import json
import os
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, weight_norm  # noqa: E402

from convergence.errors import FileError  # noqa: E402
from convergence.networks.checkpoints import read_checkpoint  # noqa: E402
from convergence.networks.state_keys import fit_state  # noqa: E402
from convergence.networks.weight_files import MissingWeightsError, combined_sha256, weight_files  # noqa: E402
from convergence.networks.weights import load_arrays, load_checked, save_weights, weights_path  # noqa: E402


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 2)))


STATE = net().state_dict()


def prefixed(prefix: str, state=None) -> dict:
    return {prefix + key: value for key, value in (state or STATE).items()}


def loaded(path, module=None, inside="", **more):
    """The arrays of a file for a net, and the notes."""
    checkpoint = read_checkpoint(path, inside)
    return fit_state(checkpoint.state, module or net(1), str(path), **more)


def same(state, other=STATE) -> bool:
    return list(state) == list(other) and all(torch.equal(state[key], other[key]) for key in other)


@pytest.mark.parametrize(
    ("content", "inside"),
    [
        (STATE, ""),
        (
            {"epoch": 90, "state_dict": prefixed("module."), "optimizer": {"state": {0: {"m": torch.ones(3)}}}},
            "state_dict",
        ),
        ({"model": STATE, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}, "model"),
        ({"model_state_dict": prefixed("_orig_mod.module."), "best_acc1": torch.tensor(3.0)}, "model_state_dict"),
        ({"net": {"ema": prefixed("backbone.")}, "lr_schedulers": [{"x": 1}]}, "net.ema"),
        (prefixed("module._orig_mod."), ""),
    ],
)
def test_state_dict_is_found_in_usual_containers(tmp_path, content, inside):
    torch.save(content, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.inside == inside
    assert same(fit_state(checkpoint.state, net(1), "a.pt").state)


def test_lightning_checkpoint_leaves_losses_out_and_says_so(tmp_path):
    content = {"hyper_parameters": {"lr": 0.1}, "callbacks": {"x": {"best": torch.ones(1)}},
               "state_dict": prefixed("model.") | {"loss.weight": torch.ones(2)}}  # fmt: skip
    torch.save(content, tmp_path / "a.ckpt")
    state, notes = loaded(tmp_path / "a.ckpt")
    assert same(state)
    assert 'prefix "model." removed' in notes
    assert "loss.weight" in notes[1]


def test_several_state_dicts_need_a_name(tmp_path):
    torch.save({"state_dict": net(2).state_dict(), "state_dict_ema": STATE}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r'state_dict, state_dict_ema.*weights_key = "state_dict"'):
        loaded(tmp_path / "a.pt")
    assert same(loaded(tmp_path / "a.pt", inside="state_dict_ema").state)
    with pytest.raises(FileError, match=r'no part "ema".*did you mean|Known'):
        loaded(tmp_path / "a.pt", inside="ema")


def test_student_and_teacher_in_one_state_dict_need_a_name(tmp_path):
    torch.save({"state_dict": prefixed("student.") | prefixed("teacher.", net(3).state_dict())}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r'2 parts fit the net: student., teacher..*weights_key = "student"'):
        loaded(tmp_path / "a.pt")
    for inside in ("student", "state_dict.student"):
        assert same(loaded(tmp_path / "a.pt", inside=inside).state)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_joined_and_confined_to_their_folder(tmp_path, ending):
    keys = list(STATE)
    names = [f"model-0000{k}-of-00002.{ending}" for k in (1, 2)]
    for name, some in zip(names, (keys[:3], keys[3:]), strict=True):
        part = {key: STATE[key] for key in some}
        save_file(part, tmp_path / name) if ending == "safetensors" else torch.save(part, tmp_path / name)
    index = tmp_path / f"{'model' if ending == 'safetensors' else 'pytorch_model'}.{ending}.index.json"
    places = {key: names[k >= 3] for k, key in enumerate(keys)}
    index.write_text(json.dumps({"weight_map": places}))
    assert same(loaded(index).state)
    assert same(loaded(tmp_path).state), "a folder of transformers"
    assert [path.name for path in weight_files(tmp_path)] == [index.name, *names]
    index.write_text(json.dumps({"weight_map": places | {keys[0]: "../secret.bin"}}))
    with pytest.raises(FileError, match=r"\.\./secret.bin.*is no name of a file in the folder"):
        loaded(index)
    index.write_text(json.dumps({"weight_map": places | {"other": names[0]}}))
    with pytest.raises(FileError, match=r"1 keys of the index are in none of its files: other"):
        loaded(index)
    (tmp_path / names[1]).unlink()
    with pytest.raises(MissingWeightsError, match=names[1]):
        loaded(index)


def test_code_in_a_file_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": STATE, "x": Evil()}, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"needs the code of \w+.mkdir.*torch.save\(net.state_dict"):
        loaded(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    torch.save(net(), tmp_path / "whole.pt")
    with pytest.raises(FileError, match=r"needs the code of torch.nn.modules.container.Sequential"):
        loaded(tmp_path / "whole.pt")


@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_files_are_refused_with_a_remedy(tmp_path):
    torch.jit.script(net()).save(tmp_path / "script.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(STATE, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:900])
    (tmp_path / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(60))
    (tmp_path / "empty.pt").touch()
    save_file(STATE, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-8])
    os.mkfifo(tmp_path / "pipe.pt")
    for name, words in {
        "script.pt": "TorchScript archive.*torch.jit", "none.pt": "no state dict.*epoch", "list.pt": "no state dict",
        "cut.pt": "damaged", "lfs.pt": "git lfs pull", "page.pt": "a page", "keras.h5": "HDF5", "empty.pt": "empty",
        "cut.safetensors": "damaged", "pipe.pt": "a pipe", "missing.pt": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(FileError, match=words):
            loaded(tmp_path / name)


def test_differences_are_named_with_the_nearest_keys(tmp_path):
    state = {key.replace("conv", "conv1"): value for key, value in STATE.items()}
    state["fc.weight"] = torch.zeros(7, 4)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(FileError) as error:
        loaded(tmp_path / "a.safetensors", remedy="Set options")
    text = str(error.value)
    assert "2 keys are missing in the checkpoint: conv.weight (nearest: conv1.weight)" in text
    assert "fc.weight: (7, 4) in the checkpoint, (2, 4) in the net" in text
    assert "Set options" in text
    state["fc.weight"] = STATE["fc.weight"]
    save_file(state, tmp_path / "a.safetensors")
    assert same(loaded(tmp_path / "a.safetensors", key_map={"conv1.": "conv."}).state)
    with pytest.raises(FileError, match=r'no key begins with "conv2."'):
        loaded(tmp_path / "a.safetensors", key_map={"conv2.": "conv."})


def test_one_missing_key_behind_a_prefix_is_the_one_that_is_named(tmp_path):
    state = prefixed("module.")
    del state["module.fc.bias"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(FileError, match=r"1 key is missing in the checkpoint: fc.bias"):
        loaded(tmp_path / "a.pt")


def test_half_precision_becomes_float32_with_a_note(tmp_path):
    save_file({key: value.half() if value.is_floating_point() else value for key, value in STATE.items()},
              tmp_path / "a.safetensors")  # fmt: skip
    state, notes = loaded(tmp_path / "a.safetensors")
    assert notes == ("weights stored as float16 were converted to float32",)
    assert torch.equal(state["fc.weight"], STATE["fc.weight"].half().float())
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    with pytest.raises(FileError, match=r"fc.weight is stored as int8"):
        fit_state(STATE | {"fc.weight": STATE["fc.weight"].to(torch.int8)}, net(), "a.pt")


def test_counters_of_old_checkpoints_may_be_missing():
    old = {key: value for key, value in STATE.items() if "num_batches" not in key}
    state, notes = fit_state(old, net(1), "a.pt")
    assert same(state)
    assert "1 counters" in notes[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_and_new_weight_norm_are_the_same_weights():
    old, new = weight_norm(nn.Linear(3, 4)), parametrizations.weight_norm(nn.Linear(3, 4))
    for source, target in ((old, new), (new, old)):
        load_arrays(target, fit_state(source.state_dict(), target, "a.pt").state)
        x = torch.randn(2, 3)
        assert torch.equal(source(x), target(x))
        torch.nn.init.normal_(source.bias)


def test_old_and_new_spectral_norm_have_the_same_keys():
    old, new = nn.utils.spectral_norm(nn.Linear(3, 4)), parametrizations.spectral_norm(nn.Linear(3, 4))
    load_arrays(new, fit_state(old.state_dict(), new, "a.pt").state)
    assert torch.equal(new.parametrizations.weight.original, old.weight_orig)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_tied_weights_are_saved_and_loaded_tied(tmp_path):
    module = Tied()
    save_weights(module, tmp_path)
    state = load_checked(weights_path(tmp_path))
    other = Tied()
    load_arrays(other, state)
    assert torch.equal(other.second.weight, module.first.weight)
    assert other.second.weight is other.first.weight


@pytest.mark.parametrize("left_out", ["first.weight", "second.weight"])
def test_tied_weights_may_be_written_once(left_out):
    state = {key: value for key, value in Tied().state_dict().items() if key != left_out}
    fitted = fit_state(prefixed("module.", state), Tied(), "a.pt").state
    kept = ({"first.weight", "second.weight"} - {left_out}).pop()
    assert torch.equal(fitted[left_out], state[kept])


def test_untied_values_of_tied_weights_are_refused():
    with pytest.raises(FileError, match=r"first.weight and second.weight are one tensor"):
        fit_state(Tied().state_dict() | {"second.weight": torch.zeros(3, 3)}, Tied(), "a.pt")


def test_digest_of_one_file_is_that_of_its_content():
    assert combined_sha256([("a.pt", "ab")]) == "ab"
    assert combined_sha256([("a", "ab"), ("b", "cd")]) != combined_sha256([("a", "cd"), ("b", "ab")])
