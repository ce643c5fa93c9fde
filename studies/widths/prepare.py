"""Write the digits of the study digits12, which this study uses as well."""

from __future__ import annotations

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "digits12" / "prepare.py"), run_name="__main__")
