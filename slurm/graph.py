"""From what is missing in a run folder to jobs that depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL, STAGES
from convergence.runs.tasks import StageTask
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
    after_any : names of jobs that must have ended before it starts, as they like: the link of a chain before it, and
        stages that it can do without
    """

    name: str
    stage: str
    pieces: tuple[str, ...]
    array: bool = False
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()


def missing(folder: RunFolder) -> list[StageTask]:
    """Works that are not done for the present settings, in order.

    The report shows what optional stages left, so it is made again after them.
    """
    found = [work for work in folder.tasks() if folder.state(work) != "done"]
    report = folder.report_task()
    if any(stage_of(work.name) in OPTIONAL for work in found) and all(work.name != report.name for work in found):
        found.append(report)
    return found


def jobs(works: list[StageTask], profile: ClusterProfile) -> list[Job]:
    """Jobs for works.

    A stage waits until the last one before it that is not optional and has jobs has ended well, and until optional ones
    since then have ended. The links of a chain wait for each other.
    """
    links = profile.requeue.most + 1 if profile.requeue.by == "chain" else 1
    found: list[Job] = []
    before: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    for stage in STAGES:
        pieces = tuple(work.name for work in works if stage_of(work.name) == stage)
        if not pieces:
            continue
        array = stage == "train" and profile.train.array
        last = []
        for members in [pieces] if array else [(piece,) for piece in pieces]:
            name = stage if array or stage != "train" else members[0].replace(" ", "-")
            previous = () if stage in OPTIONAL else optional
            for link in range(1, links + 1):
                link_name = name if links == 1 else f"{name}-link{link}"
                found.append(Job(link_name, stage, members, array, before, previous))
                previous = (link_name,)
            last.append(found[-1].name)
        if stage in OPTIONAL:
            optional += tuple(last)
        else:
            before, optional = tuple(last), ()
    return found


def stage_of(piece: str) -> str:
    """The verb that gets a piece done: "train net1" → "train"."""
    return piece.split()[0]
