"""From what is missing in a run folder to jobs that depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

from convergence.pipeline import STAGES
from convergence.runs import RunFolder, Work
from slurm.profile import ClusterProfile


@dataclass(frozen=True)
class Job:
    """One job to submit.

    Attributes
    ----------
    name : unique within a submission
    stage : verb of the command
    pieces : names of the works that it gets done; several for an array
    array : whether its pieces are members of an array
    after : names of the jobs that must end well before it starts
    after_any : name of the link of a chain before it, which may end as it likes
    """

    name: str
    stage: str
    pieces: tuple[str, ...]
    array: bool = False
    after: tuple[str, ...] = ()
    after_any: str | None = None


def missing(folder: RunFolder) -> list[Work]:
    """Works that are not done for the present settings, in order."""
    return [work for work in folder.works() if folder.state(work) != "done"]


def jobs(works: list[Work], profile: ClusterProfile) -> list[Job]:
    """Jobs for works; a stage waits for the one before it that has jobs, and the links of a chain for each other."""
    links = profile.requeue.most + 1 if profile.requeue.by == "chain" else 1
    found: list[Job] = []
    before: tuple[str, ...] = ()
    for stage in STAGES:
        pieces = tuple(work.name for work in works if stage_of(work.name) == stage)
        if not pieces:
            continue
        array = stage == "train" and profile.train.array
        last = []
        for members in [pieces] if array else [(piece,) for piece in pieces]:
            name = stage if array or stage != "train" else members[0].replace(" ", "-")
            previous = None
            for link in range(1, links + 1):
                link_name = name if links == 1 else f"{name}-link{link}"
                found.append(Job(link_name, stage, members, array, before, previous))
                previous = link_name
            last.append(found[-1].name)
        before = tuple(last)
    return found


def stage_of(piece: str) -> str:
    """The verb that gets a piece done: "train net1" → "train"."""
    return piece.split()[0]
