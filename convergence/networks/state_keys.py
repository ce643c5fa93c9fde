"""Fit the arrays of a checkpoint to a net, key by key.

Keys differ between programs although the weights are the same: prefixes of wrappers (``module.``, ``model.``), parts
that torch.compile and FSDP insert (``_orig_mod``), old and new names of normalised weights, and weights that several
layers share, which some programs write once. Such keys are recognised. Every other difference is refused and named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from convergence.errors import FileError

State = Mapping[str, torch.Tensor]
SHOWN = 8
"""Keys that a message names."""
INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of keys of modules that torch.compile, FSDP and activation checkpointing wrap."""
WRITTEN_ONCE = ".num_batches_tracked"
"""End of the keys of counters that older versions of torch did not save, and evaluation does not use."""


class OtherShapesError(FileError):
    """Arrays of other shapes than those of the net, whose keys all fit; pairs of shapes in the file and in the net."""

    def __init__(self, message: str, shapes: Sequence[tuple[torch.Size, torch.Size]]) -> None:
        super().__init__(message)
        self.shapes = tuple(shapes)

    def outputs(self, n_classes: int) -> int | None:
        """Number of outputs of the net in the file, if it differs from one of ``n_classes`` outputs in that alone."""
        found = {
            given[0] if len(given) and given[1:] == own[1:] and own[0] == n_classes else None
            for given, own in self.shapes
        }
        return found.pop() if len(found) == 1 else None


class FittedState(NamedTuple):
    """Arrays for ``load_arrays`` of a net, and what was done to the keys and values of the checkpoint."""

    state: dict[str, torch.Tensor]
    notes: tuple[str, ...]


def fit_state(
    state: State, module: nn.Module, where: str, key_map: Mapping[str, str] | None = None,
    ignored: Sequence[str] = (), remedy: str = "",
) -> FittedState:  # fmt: skip
    """Match the arrays of a checkpoint with the weights and buffers of a net.

    Parameters
    ----------
    state
        Arrays by key of the checkpoint.
    module
        The net, built in float32.
    where
        Name of the checkpoint in messages.
    key_map
        New beginnings of keys by old ones; the longest one that fits is replaced.
    ignored
        Beginnings of keys that the net does without.
    remedy
        Further advice for arrays of another shape.

    Raises
    ------
    FileError
        naming the first missing and unexpected keys with the nearest names, and arrays of another shape or type;
        OtherShapesError if there are only arrays of another shape.
    """
    notes: list[str] = []
    given = _mapped(state, key_map or {}, where)
    given = {INSERTED.sub("", key): value for key, value in given.items()}
    own = module.state_dict(keep_vars=True)
    bare = {key: INSERTED.sub("", key) for key in own}
    known = set(bare.values())
    names = {_canonical(bare[key], known): key for key in own}
    tied = _tied(own, {key: name for name, key in names.items()})
    given = {_canonical(key, given): value for key, value in given.items()}
    needed = {name for name in names if tied[name] == name and not name.endswith(WRITTEN_ONCE)}
    given = _without_prefix(given, needed, tied, set(names), where, notes)
    given = {key: value for key, value in given.items() if not key.startswith(tuple(ignored)) or key in names}
    _merge_tied(given, tied, where)
    missing = [name for name in names if name not in given and not name.endswith(WRITTEN_ONCE)]
    unexpected = [key for key in given if key not in names]
    differing = [name for name, key in names.items() if name in given and given[name].shape != own[key].shape]
    if missing or unexpected or differing:
        pairs = [(given[name].shape, own[names[name]].shape) for name in differing]
        shapes = [
            f"{name}: {tuple(there)} in the checkpoint, {tuple(here)} in the net"
            for name, (there, here) in zip(differing, pairs, strict=True)
        ]
        message = _mismatch(where, missing, unexpected, shapes, names, remedy)
        raise FileError(message) if missing or unexpected else OtherShapesError(message, pairs)
    counters = [name for name in names if name not in given]
    if counters:
        notes.append(f"{len(counters)} counters of batch norms are not in the checkpoint; they start at 0")
    fitted = {
        key: _cast(given[name], own[key], name, where, notes) if name in given else own[key].detach().clone()
        for name, key in names.items()
    }
    return FittedState(fitted, tuple(dict.fromkeys(notes)))


def _mapped(state: State, key_map: Mapping[str, str], where: str) -> dict[str, torch.Tensor]:
    """Replace the beginnings of keys."""
    olds = sorted(key_map, key=len, reverse=True)
    unused = [old for old in olds if not any(key.startswith(old) for key in state)]
    if unused:
        raise FileError(
            f'{where}: key_map: no key begins with "{unused[0]}". Keys are {_named(list(state))}. Correct key_map.'
        )
    found: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        old = next((old for old in olds if key.startswith(old)), None)
        new = key if old is None else key_map[old] + key.removeprefix(old)
        if new in found:
            raise FileError(f'{where}: key_map gives two arrays the key "{new}". Correct key_map.')
        found[new] = value
    return found


def _canonical(key: str, known: Collection[str]) -> str:
    """The key of a normalised weight as torch.nn.utils.parametrizations names it; other keys are unchanged."""
    head, dot, last = key.rpartition(".")
    base, _, part = last.rpartition("_")
    beside = {end for end in ("g", "v", "orig", "u") if f"{head}{dot}{base}_{end}" in known} if base else set()
    if {"g", "v"} <= beside and part in ("g", "v"):
        return f"{head}{dot}parametrizations.{base}.original{'gv'.index(part)}"
    if {"orig", "u"} <= beside:
        ends = {"orig": "original", "u": "0._u", "v": "0._v"}
        return f"{head}{dot}parametrizations.{base}.{ends[part]}" if part in ends else key
    return key


def _tied(own: State, name_of: Mapping[str, str]) -> dict[str, str]:
    """For each name the first name of the same tensor."""
    first: dict[object, str] = {}
    tied = {}
    for key, value in own.items():
        place = (value.data_ptr(), value.shape, value.stride()) if value.numel() else (key,)
        tied[name_of[key]] = first.setdefault(place, name_of[key])
    return tied


def _without_prefix(
    given: dict[str, torch.Tensor], needed: set[str], tied: Mapping[str, str], names: set[str], where: str,
    notes: list[str],
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Remove the prefix of a wrapper if the remaining keys then are those of the net.

    Arrays beside a prefix belong to other parts of a Lightning module (losses, metrics), and are left out.
    """
    alike: dict[str, list[str]] = {}
    for name, first in tied.items():
        alike.setdefault(first, []).append(name)

    def fits(prefix: str) -> bool:
        return all(any(prefix + name in given for name in alike[need]) for need in needed)

    if not needed or fits(""):
        return given
    some = alike[min(needed)]
    ends = [f".{name}" for name in some]
    prefixes = sorted({key[: -len(end) + 1] for key in given for end in ends if key.endswith(end)})
    fitting = [
        prefix
        for prefix in prefixes
        if fits(prefix) and all(key.removeprefix(prefix) in names for key in given if key.startswith(prefix))
    ]
    if len(fitting) > 1:
        raise FileError(
            f"{where}: the keys of {len(fitting)} parts fit the net: {', '.join(fitting[:SHOWN])}. Name the one to "
            f'take: weights_key = "{fitting[0].removesuffix(".")}".'
        )
    if not fitting:  # the nearest prefix makes a shorter list of differences
        shares = {prefix: sum(any(prefix + n in given for n in alike[need]) for need in needed) for prefix in prefixes}
        prefix = max(shares, key=lambda one: shares[one], default="")
        return {key.removeprefix(prefix): value for key, value in given.items()} if prefix else given
    prefix = fitting[0]
    others = [key for key in given if not key.startswith(prefix)]
    notes.append(f'prefix "{prefix}" removed')
    if others:
        notes.append(f"{_count(others, 'array')} of other modules and left out: {_named(others)}")
    return {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}


def _merge_tied(given: dict[str, torch.Tensor], tied: Mapping[str, str], where: str) -> None:
    """Give all names of a shared tensor its values; FileError where the checkpoint has different ones."""
    for name, first in tied.items():
        if name == first:
            alike = [other for other, start in tied.items() if start == first and other in given]
            if alike and first not in given:
                given[first] = given[alike[0]]
            for other in alike:
                if not torch.equal(given[first], given[other]):
                    raise FileError(
                        f"{where}: {first} and {other} are one tensor in the net (tied weights) and differ in the "
                        "checkpoint. Build the net without tied weights."
                    )
    given |= {name: given[first] for name, first in tied.items() if name != first and first in given}


def _cast(value: torch.Tensor, own: torch.Tensor, name: str, where: str, notes: list[str]) -> torch.Tensor:
    """An array in the type of the net's; floating types become float32."""
    if value.layout != torch.strided or value.is_quantized or value.is_complex() != own.is_complex():
        raise FileError(f"{where}: {name} is stored as {_type(value)}; needed are plain arrays of floating values.")
    if value.is_floating_point() != own.is_floating_point():
        raise FileError(
            f"{where}: {name} is stored as {_type(value)}, and the net has {_type(own)} (quantised weights?). Save "
            "the weights in float32."
        )
    if value.is_floating_point() and value.dtype != own.dtype:
        notes.append(f"weights stored as {_type(value)} were converted to {_type(own)}")
    return value.detach().to(own.dtype).contiguous()


def _type(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _mismatch(
    where: str, missing: list[str], unexpected: list[str], shapes: list[str], names: Collection[str], remedy: str
) -> str:
    """The message about keys and shapes that do not fit."""
    found = []
    if missing:
        found.append(f"{_count(missing, 'key')} missing in the checkpoint: {_named(missing, unexpected)}")
    if unexpected:
        found.append(f"{_count(unexpected, 'key')} unknown to the net: {_named(unexpected, names)}")
    if shapes:
        found.append(f"{_count(shapes, 'array')} of another shape: {'; '.join(shapes[:SHOWN])}")
        found[-1] += "; …" if len(shapes) > SHOWN else ""
    advice = [remedy] if shapes and remedy else []
    if missing and unexpected:
        advice.append('If only the names differ, set key_map = { "old beginning" = "new beginning" } in the group')
    advice.append("Otherwise name the network, with the options, that the checkpoint was made with")
    return f"{where}: the checkpoint does not fit the network. {'. '.join(found)}. {'. '.join(advice)}."


def _count(items: Collection[str], noun: str) -> str:
    return f"1 {noun} is" if len(items) == 1 else f"{len(items):,} {noun}s are"


def _named(names: Sequence[str], near: Collection[str] = ()) -> str:
    """The first names, each with the nearest of other names."""
    found = []
    for name in names[:SHOWN]:
        close = difflib.get_close_matches(name, list(near)[:5000], n=1)
        found.append(f"{name} (nearest: {close[0]})" if close else name)
    return ", ".join(found) + (", …" if len(names) > SHOWN else "")
