"""Slurm's commands as small scripts, and helpers of the tests that use them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from slurm.profile import ClusterProfile
from slurm.records import Attempt

ROOT = Path(__file__).parents[2]


FAKES = {
    "srun": "#!/bin/sh\n",
    "sbatch": """#!/bin/sh
sleep ${SBATCH_SLEEP:-0}
for file; do :; done
grep -q refused-partition "$file" && { echo "invalid partition specified" >&2; exit 1; }
n=$(($(cat "$FAKE/next" 2>/dev/null || echo 100) + 1)); echo $n >"$FAKE/next"
cp "$file" "$FAKE/$n.sh"; echo "$@" >"$FAKE/$n.arguments"; env >"$FAKE/$n.environment"
[ ! -e "$FAKE/answer" ] || { . "$FAKE/answer"; exit; }
case $1 in --parsable) echo "$n";; *) echo "Submitted batch job $n";; esac
""",
    "squeue": """#!/bin/sh
[ ! -e "$FAKE/silent" ] || { echo "Unable to contact slurm controller" >&2; exit 1; }
cat "$FAKE/queue" 2>/dev/null || true
""",
    "scancel": '#!/bin/sh\necho "$@" >>"$FAKE/cancelled"\n',
    "scontrol": """#!/bin/sh
case $1 in
  requeue)
    [ ! -e "$FAKE/forbidden" ] || { echo "Access/permission denied" >&2; exit 1; }
    [ ! -e "$FAKE/overtaken" ] || {
      echo PENDING >"$FAKE/state"; echo "Job is pending execution" >&2; exit 1
    }
    echo "$2" >>"$FAKE/requeued" ;;
  show)
    state=$(cat "$FAKE/state" 2>/dev/null || echo RUNNING)
    echo "JobId=$4 JobState=$state Restarts=$(cat "$FAKE/restarts" 2>/dev/null || echo 0)" \\
      "Dependency=$(cat "$FAKE/dependency" 2>/dev/null || echo "(null)")" ;;
  update)
    [ ! -e "$FAKE/unchangeable" ] || { echo "Access/permission denied" >&2; exit 1; }
    echo "$2 $3" >>"$FAKE/updated" ;;
esac
""",
    "sacct": '#!/bin/sh\necho "Slurm accounting storage is disabled" >&2; exit 1\n',
}


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """Slurm's commands as scripts that record their arguments in this folder."""
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    for name, text in FAKES.items():
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


def profile(**values) -> ClusterProfile:
    return ClusterProfile.model_validate(values)


def arguments(config: Path, tmp_path: Path, cluster: str = "") -> list[str]:
    site = tmp_path / "site.toml"
    site.write_text(cluster or "[defaults]\npartition = 'p'\n", encoding="utf-8")
    return [str(config), "--runs", str(tmp_path / "runs"), "--cluster", str(site)]


ATTEMPT = Attempt("statistics", 1, "7", 0, "n1", socket.gethostname(), 1, "/log", "2026-01-01T00:00:00.000+00:00")
