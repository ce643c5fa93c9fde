"""Texts of a profile or a run as parts of an sbatch script: quoting, variables that the job expands, modules."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from convergence.errors import UserError

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
_HOME = re.compile(r"~(?:[a-z_][\w.-]*)?(?:/|$)", re.ASCII)
_DIRECTIVE = re.compile(r"#SBATCH[ \t]+(?:--([a-z][a-z-]*)(?:[= ](.*))?|-([A-Za-z])[ =]?(.*))$")
_SHORT = {"A": "account", "p": "partition", "q": "qos", "C": "constraint", "J": "job-name"}
UNUSABLE = {"\n": "a line break", "\r": "a carriage return", "\\": "a backslash"}
"""Characters that sbatch cannot read in the path of a log."""
MODULE_FUNCTION = r"""
load_module() { # sites differ: Tcl modules and old Lmod return 0 for a module that does not exist
  local before=${LOADEDMODULES-} messages code one listed
  messages=$(mktemp) && module load "$1" >"$messages" 2>&1
  code=$?
  cat "$messages" >&2
  listed=$(module -t list 2>&1)
  for one in ${LOADEDMODULES//:/ } $listed; do
    case ${one%"(default)"} in "$1" | "$1"/*) [ $code -ne 0 ] || { rm -f "$messages"; return; } ;; esac
  done
  if [ $code -eq 0 ] && ! grep -qiE 'error|unknown|unable to|cannot|not found|no such' "$messages"; then
    if [ "${LOADEDMODULES-}" != "$before" ] || [ -z "${LOADEDMODULES-}$listed" ]; then rm -f "$messages"; return; fi
  fi
  echo "convergence: module $1 could not be loaded on $HOSTNAME: exit code $code, loaded modules:" \
    "${LOADEDMODULES:-$listed}, messages: $(cut -c 1-300 "$messages"). Correct modules in the cluster profile;" \
    "\`module avail\` lists them. A line \"module load $1\" in setup is not checked." | tr -s '\r\n\t ' ' ' >&2
  echo >&2
  exit 1
}
""".strip()
NO_MODULES = """
type module >/dev/null 2>&1 || {
  echo "convergence: the shell of the job on $HOSTNAME has no \\`module\\` command, which modules in the cluster" \\
    "profile need. Batch shells read no login files: add setup = [\\"source /etc/profile.d/modules.sh\\"], or the" \\
    "file that your login shell reads (\\`grep -l module /etc/profile.d/*.sh\\`)." >&2
  exit 1
}
""".strip()


def directive(option: str, value: str | None = None) -> str:
    """A ``#SBATCH`` line; sbatch reads quotes as a shell does, and backslashes also inside single quotes."""
    return f"#SBATCH --{option}" if value is None else f"#SBATCH --{option}={quoted_for_sbatch(value)}"


def quoted_for_sbatch(value: str) -> str:
    """A value as one word of a ``#SBATCH`` line."""
    return shlex.quote(value).replace("\\", "\\\\")


def literal_pattern(path: str) -> str:
    """A path for ``--output``: ``%`` is doubled, since sbatch replaces ``%j``, ``%A`` and others."""
    return path.replace("%", "%%")


def directives(text: str) -> dict[str, str]:
    """The options that a script sets, by long name, with the values that sbatch reads."""
    found = {}
    for line in text.splitlines():
        match = _DIRECTIVE.match(line)
        if match:
            name, value = match[1] or _SHORT.get(match[3], match[3]), match[2] or match[4] or ""
            try:
                words = shlex.split(value.replace("\\\\", "\\"))
            except ValueError:
                words = [value]
            found[name] = " ".join(words)
    return found


def expanded(text: str, setting: str | None = None) -> str:
    """A text as one word of a script in which the job expands ``~`` at the start, ``$NAME`` and ``${NAME}`` only.

    As in the paths of a config (:func:`convergence.settings.expand_path`), ``$$`` is a dollar sign.

    If ``setting`` is given, a variable that is not set where the job runs ends the job with a message that names this
    setting; otherwise it is empty.
    """
    home = _HOME.match(text)
    words = [home[0]] if home else []
    position = home.end() if home else 0
    for match in _VARIABLE.finditer(text, position):
        words.append(_quoted(text[position : match.start()]))
        position = match.end()
        if match[1]:
            words.append("'$'")
            continue
        name = match[2] or match[3]
        unset = f":?convergence: \\${name} is not set where the job runs; {setting} needs it"
        words.append(f'"${{{name}{unset if setting else "-"}}}"')
    return "".join([*words, _quoted(text[position:])]) or "''"


def module_lines(modules: Sequence[str]) -> list[str]:
    """Shell lines that load modules and end the job with a message if one is not loaded afterwards."""
    if not modules:
        return []
    return [NO_MODULES, MODULE_FUNCTION, *(f"load_module {shlex.quote(module)}" for module in modules)]


def check_paths(paths: Iterable[str], separators: str = "") -> None:
    """Refuse paths that a script cannot pass on.

    ``separators`` are characters that separate paths where these are used, for example ":" in PYTHONPATH.

    Raises
    ------
    UserError
        naming the path and the character.
    """
    names = UNUSABLE | {sign: f'"{sign}"' for sign in separators}
    for path in paths:
        for sign, name in names.items():
            if sign in path:
                raise UserError(
                    f"{path!r}: the path contains {name}, which jobs cannot use (--output of sbatch, PYTHONPATH, "
                    "--bind). Rename the folder, or choose another one (--runs for the run folder)."
                )


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""
