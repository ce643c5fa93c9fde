"""Hostile configs: every mutation of the shipped configs is accepted or refused in one short paragraph.

    python -m benchmarks.fuzz configs --count 5000 --seed 0

Mutations are of the text (bytes, tokens, lines), of the values (every key with a table of hostile values) and of
``--set`` options. A config that is accepted is described as by ``show``, without its images. A fault is an exception
other than UserError, a message beyond the limit, more than two seconds of processor time, a gigabyte of memory, or a
number that is not finite.
"""

from __future__ import annotations

import copy
import math
import random
import resource
import signal
import tempfile
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convergence.cli.run_description import run_text
from convergence.config.load import read_config, validated
from convergence.config.schema import Experiment
from convergence.errors import LONGEST_MESSAGE, UserError
from convergence.runs.run_folder import RunFolder

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.toml"))
FULL = """
name = "full"
[activations]
root = "$NOT_SET/arrays"
untrained = ["b"]
nets = { a = { fc = "a.npy" }, b = { fc = "b.npz:fc" } }
[statistics]
comparisons = [{ name = "fc", layers = { a = "fc", b = ["fc"] }, pool = true }]
mutual_information = { bins = 4, blocks = 3, positions = 10 }
[report]
compare = "~/other"
pair = ["a", "b"]
"""
LIMIT_S, LIMIT_BYTES = 2.0, 2**30
HOSTILE: tuple[Any, ...] = (
    0, -1, 1, 3, True, False, 0.5, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan, 10**14, 2**31, 2**63, -(2**63),
    10**5000, "", "3", "nan", "..", "../x", "a/b", "a\0b", "a\nb", "\x1b[31mred", "x" * 100_000, "CON", "é", "e\u0301",
    "\ud800", "~nobody_here/x", "$NOT_SET", "${", "$", "os:system", "builtins:eval", "torchvision:", "torchvision:../x",
    [], [[]], [0], ["a", "a"], ["a", "A"], [1, 1], [math.nan], list(range(20_000)), [[1, 2], [3]], {}, {"name": "x"},
    {"a": {"b": {"c": {"d": {}}}}}, {"": 1}, {"x" * 5000: 1}, [{"name": "conv1", "layers": "conv1"}] * 2, None,
)  # fmt: skip
TOKENS = (
    "nan", "inf", "true", '"', "'", "[", "]", "{", "}", "=", ".", ",", "#", "\n", "\r", "\0", "\ufeff",
    "0x" + "f" * 5000, "9" * 5000, "[" * 500, "a." * 300 + "a = 1\n", "1979-05-27", '"""', "\\u0000", "\\ud800",
    "[[nets]]\n", "[data]\n",
)  # fmt: skip


def fuzz(count: int, seed: int) -> list[str]:
    """Read ``count`` mutated configs; return a description of every fault."""
    draw = random.Random(seed)
    texts = [path.read_text(encoding="utf-8") for path in CONFIGS] + [FULL]
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            kind, attempt = _mutation(draw, draw.choice(texts), Path(folder))
            found = _fault(attempt)
            if found:
                faults.append(f"{kind} {number} of seed {seed}: {found}")
    return faults


def _mutation(draw: random.Random, text: str, folder: Path) -> tuple[str, Callable[[], Experiment]]:
    """A kind of mutation and a function that reads the mutated config."""
    path = folder / "c.toml"
    kind = draw.choice(("text", "value", "value", "override"))
    if kind == "text":
        path.write_bytes(_mutated_text(draw, text))
        return kind, lambda: read_config(path)
    values = tomllib.loads(text)
    if kind == "value":
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            keys = draw.choice([*_keys(values)])
            _put(values, keys, copy.deepcopy(draw.choice(HOSTILE)))
        return f"value {keys}", lambda: validated(Experiment, values, "fuzz", folder)
    path.write_text(text, encoding="utf-8")
    key = ".".join(map(str, draw.choice([*_keys(values)])))
    odd = (key + ".x" * draw.randrange(12), key + ".99999999999", f"{key}.-1", "", f".{key}", key * 50)
    key = draw.choice((key, key, key, *odd))
    value = draw.choice((_literal(draw.choice(HOSTILE)) if draw.random() < 0.8 else "", *TOKENS))
    override = draw.choice((f"{key}={value}", f"{key}={value}", key))
    return f"override {override[:80]!r}", lambda: read_config(path, [override])


def _literal(value: Any) -> str:
    """A value as a user would write it; Python writes no decimals of more than 4,300 digits."""
    try:
        return repr(value)
    except ValueError:
        return hex(value)


def _mutated_text(draw: random.Random, text: str) -> bytes:
    lines = text.splitlines(keepends=True)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(lines))
        action = draw.randrange(6)
        if action == 0:
            lines.insert(at, draw.choice(lines))
        elif action == 1 and len(lines) > 1:
            del lines[at]
        elif action == 2:
            line = lines[at]
            cut = draw.randrange(len(line) + 1)
            lines[at] = line[:cut] + draw.choice(TOKENS) + line[cut:]
        elif action == 3:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif action == 4:
            lines = lines[: at + 1]
        else:
            lines.insert(at, draw.choice(TOKENS))
    content = bytearray("".join(lines).encode("utf-8"))
    for _ in range(draw.choice((0, 0, 0, 1, 3))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content)


def _keys(values: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values, and of the settings that they could have."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from _keys(value, (*before, key))
    if not before:
        for section, field in Experiment.model_fields.items():
            yield from _fields(field.annotation, (section,))


def _fields(section: Any, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in getattr(section, "model_fields", {}).items():
        yield (*before, name)
        yield from _fields(field.annotation, (*before, name))


def _put(values: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key) if isinstance(values, dict) else values[key] if key in range(len(values)) else None
        if not isinstance(inner, dict | list):
            if not isinstance(values, dict):
                return
            inner = values[key] = {}
        values = inner
    if isinstance(values, dict) or keys[-1] in range(len(values)):
        values[keys[-1]] = value


def _fault(read: Callable[[], Experiment]) -> str:
    """What is wrong with reading and describing a config; "" for success and for a short refusal."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _limited_time():
            experiment = read()
            _describe(experiment)
    except UserError as error:
        return f"a message of {len(str(error))} characters" if len(str(error)) > LONGEST_MESSAGE else ""
    except TimeoutError:
        return f"more than {LIMIT_S:g} s"
    except Exception:
        return traceback.format_exc(limit=-3)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > LIMIT_BYTES:
        return f"{grown:,} bytes of memory"
    numbers = [value for value in _leaves(experiment.model_dump()) if isinstance(value, float)]
    return "" if all(map(math.isfinite, numbers)) else "a number that is not finite was accepted"


def _describe(experiment: Experiment) -> None:
    """The description of ``show`` but for the sizes, which need the images; nothing below this folder is written."""
    from convergence.cli.run_description import RunDescription, _settings

    folder = RunFolder(Path("no such folder") / experiment.name, experiment)
    for task in folder.tasks():
        assert task.digest
    for net in experiment.all_nets():
        if net.network is not None:
            net.network.refusal()
    run_text(RunDescription(experiment.name, "", dict(_settings(experiment)), "", None, "", None, ()))


def _leaves(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _leaves(item)
    yield value


@contextmanager
def _limited_time() -> Iterator[None]:
    """Raise TimeoutError after :data:`LIMIT_S` of processor time."""

    def stop(*_: object) -> None:
        raise TimeoutError

    earlier = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)
