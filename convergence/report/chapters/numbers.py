"""How the chapters write numbers: shares in per cent, differences with a sign, lists of parts."""

from __future__ import annotations

from collections.abc import Sequence

from convergence.inference import Estimate


def percent(e: Estimate) -> str:
    """A share in per cent with its interval."""
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def points(e: Estimate) -> str:
    """A difference of shares in percentage points with its interval."""
    low, value, high = (f"{100 * x:+.1f}".replace("-", "−") for x in (e.low, e.value, e.high))
    return f"{value} points [{low}, {high}]"


def difference(e: Estimate, digits: int = 4) -> str:
    """A difference with its interval."""
    low, value, high = (f"{x:+.{digits}f}".replace("-", "−") for x in (e.low, e.value, e.high))
    return f"{value} [{low}, {high}]"


def millinats(e: Estimate) -> str:
    """A difference of losses in millinats with its interval."""
    low, value, high = (f"{1000 * x:+.2f}".replace("-", "−") for x in (e.low, e.value, e.high))
    return f"{value} [{low}, {high}] millinats"


def is_clear(e: Estimate) -> bool:
    """Whether the interval of a difference excludes zero."""
    return e.low > 0 or e.high < 0


def listed(parts: Sequence[str]) -> str:
    """Parts separated by semicolons and "and"."""
    return parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"
