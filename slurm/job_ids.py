"""Job ids in the output of Slurm's commands, and of the wrappers that many sites put in their place.

Wrappers print banners, colours and estimates around the answer, add the name of a cluster, or print only the number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[@-Z\\-_])")
_SUBMITTED = re.compile(r"\bSubmitted batch job (\d+)\b(?: on cluster ([\w.-]+))?", re.I)
_PARSABLE = re.compile(r"(\d+)(?:;([\w.-]+))?")
_SENTENCE = re.compile(r"\bjob\b[ \t]*(?:id\b)?[ \t:=#<'\"]*(\d+)\b(?![.:/-]\d)", re.I)
_LABELLED = re.compile(r"(?:job[ _-]?id|job submitted|submitted(?: batch)?(?: job)?)[ \t:=#<'\"]+(\d+)['\">.]?", re.I)
_JOB = re.compile(r"(\d+)(?:([_+])(?:(\d+)|\[([\d,:-]+?)(?:,?\.\.\.)?(?:%\d+)?\]))?(?:;[\w.-]+)?")
MAX_TASKS = 100_000
"""Array tasks that one range may name; longer ranges are not expanded."""


@dataclass(frozen=True)
class JobId:
    """A job id, and the name of the cluster if Slurm gave one."""

    number: str
    cluster: str = ""


def plain_lines(text: str) -> list[str]:
    """The lines of a command's output without colours, carriage returns, surrounding blanks and empty lines."""
    lines = (line.strip() for line in re.split(r"[\r\n]+", _ESCAPES.sub("", text).replace("\ufeff", "")))
    return [line for line in lines if line]


def submitted_ids(text: str) -> list[JobId]:
    """Job ids that the output of ``sbatch`` may mean, without repeats; one if it is understood.

    The first form that occurs counts: "Submitted batch job N", with or without "on cluster X"; a line "N;X"; a line
    that is one number; a line that labels one ("job id: N"); a line with "submitted" and "job N".
    """
    lines = plain_lines(text)
    found = [JobId(match[1], match[2] or "") for line in lines for match in _SUBMITTED.finditer(line)]
    if not found:
        bare = [JobId(match[1], match[2] or "") for line in lines if (match := _PARSABLE.fullmatch(line))]
        found = [job for job in bare if job.cluster] or bare
    if not found:
        found = [JobId(match[1]) for line in lines if (match := _LABELLED.fullmatch(line))]
    if not found:
        sentences = [line for line in lines if re.search(r"\bsubmitted\b", line, re.I)]
        found = [JobId(match[1]) for line in sentences for match in _SENTENCE.finditer(line)]
    return list(dict.fromkeys(job for job in found if int(job.number) > 0))


def listed_ids(text: str) -> list[str]:
    """The jobs that the id field of a list names, without the cluster: "12_[4-7%2]" gives "12_4" … "12_7".

    A field that is no id, such as a word of a banner, gives an empty list.
    """
    match = _JOB.fullmatch(text.strip())
    if match is None:
        return []
    number, sign, index, ranges = match.groups()
    if ranges is None:
        return [number if index is None else f"{number}{sign}{index}"]
    found: list[str] = []
    for part in filter(None, ranges.split(",")):
        bounds, _, step = part.partition(":")
        first, _, last = bounds.partition("-")
        if not first.isdigit() or not (last or first).isdigit() or not (step or "1").isdigit():
            return []
        tasks = range(int(first), int(last or first) + 1, int(step or 1) or 1)
        found += [f"{number}{sign}{task}" for task in tasks[:MAX_TASKS]]
    return found


def job_number(text: str) -> str:
    """The number of a job: "12" for "12_3" and "12+1"."""
    return re.split(r"[_+;]", text, maxsplit=1)[0]
