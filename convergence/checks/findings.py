"""A finding of a check: what was examined, what was found, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from convergence.errors import SharedError

Level = Literal["ok", "note", "warning", "fault"]
LONGEST = 700
"""Characters of a message of somebody else's code that are shown."""


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes
    ----------
    check : what was examined
    level : "ok", "note" (a limitation that needs no action), "warning" (the run continues) or "fault" (it cannot)
    found : what was found
    needed : what is needed; "" if that is clear
    remedy : how to fix it; "" for "ok" and "note"
    """

    check: str
    level: Level
    found: str
    needed: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        sentences = (self.found, f"needed: {self.needed}" if self.needed else "", self.remedy)
        return " ".join(text if text.endswith((".", "?", "!")) else f"{text}." for text in sentences if text)


class CheckError(SharedError):
    """Faults that the checks of a run found; raised on all ranks before any stage starts."""


def error_text(findings: Iterable[Finding], command: str) -> str:
    """Message of a :class:`CheckError`: all faults, numbered; "" if there is none."""
    faults = [finding for finding in findings if finding.level == "fault"]
    if not faults:
        return ""
    head = "1 fault was" if len(faults) == 1 else f"{len(faults)} faults were"
    lines = [f"  {k}. {fault.check}: {fault}" for k, fault in enumerate(faults, start=1)]
    end = f"`{command}` lists all findings; --no-check runs without this check."
    return "\n".join([f"{head} found before the run, and nothing was started:", *lines, end])


def findings_text(findings: Iterable[Finding]) -> list[str]:
    """Lines of text: level, check and what was found, then what is needed and the remedy."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8}{finding.check:<13} {finding.found}")
        lines += [f"{'':<22}needed: {finding.needed}"] if finding.needed else []
        lines += [f"{'':<22}remedy: {finding.remedy}"] if finding.remedy else []
    return lines


def shortened(text: object) -> str:
    """A message of other code as one line of bounded length."""
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"
