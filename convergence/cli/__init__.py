"""The ``convergence`` command: a click group whose verbs are imported when they are used.

Exit codes: 0 success; 1 a defect of the toolkit, with its traceback; 2 an error that the user can fix, one paragraph;
75 stopped by SIGTERM or SIGUSR2 with all finished work kept, run the same command again; 130 interrupted; 141 the
reader of the output ended (``| head``).

stages.py     ``run`` and the stages: train, statistics, analyze, …, report
layers.py     ``layers``
check.py      ``check``
show.py       ``show``, with run_description.py and file_description.py
publish.py    paper, figures, compare
transfer.py   fetch, subset, pack
options.py    options that several verbs share
launch.py     the processes of a stage: MPI ranks, torch processes, analysis workers
output.py     JSON and tables
streams.py    standard streams of any encoding, closed ones, pipes that end

``slurm/cli.py`` holds the verbs for a cluster.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from convergence import __version__
from convergence.cli.streams import drop_output, flush_output, prepare_streams
from convergence.errors import EXIT_RESUME, UserError, did_you_mean
from convergence.io.caches import use_writable_caches
from convergence.registry import load_object, put_toolkit_first

EXIT_DONE, EXIT_DEFECT, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141
RESUME = "run the same command again to resume"
SECTIONS: dict[str, dict[str, str]] = {
    "Before a run": {
        "layers": "convergence.cli.layers",
        "check": "convergence.cli.check",
        "pack": "convergence.cli.transfer",
    },
    "Stages, in order": dict.fromkeys(
        (
            "run",
            "train",
            "statistics",
            "analyze",
            "pictures",
            "stitch",
            "merge",
            "compress",
            "ensemble",
            "average",
            "report",
        ),
        "convergence.cli.stages",
    ),
    "After a run": {
        "show": "convergence.cli.show",
        **dict.fromkeys(("paper", "figures", "compare"), "convergence.cli.publish"),
    },
    "On a laptop (show, analyze, report and run take a statistics.h5 in place of a config)": dict.fromkeys(
        ("fetch", "subset"), "convergence.cli.transfer"
    ),
    "On a cluster, with a profile of the site": dict.fromkeys(
        ("submit", "plan", "status", "logs", "cancel", "doctor"), "slurm.cli"
    ),
}
"""The verbs by section of ``--help``, each with the module that holds its command."""
VERBS = {verb: f"{module}:{verb}" for section in SECTIONS.values() for verb, module in section.items()}
EXAMPLES = """\
convergence run configs/digits.toml
convergence run configs/digits.toml --set analysis.rotations=50
convergence layers torchvision:resnet18
convergence check configs/digits.toml
convergence show configs/digits.toml
convergence figures runs/digits --format pdf --width 3.25in
convergence fetch cluster:runs/digits --comparison conv1
convergence analyze statistics.h5
mpiexec -n 4 convergence statistics configs/photos.toml
convergence submit configs/digits.toml --cluster configs/clusters/local_test.toml"""


class LazyGroup(click.Group):
    """A group that imports the module of a verb when the verb is used, and maps exceptions to exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = load_object(VERBS[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f'unknown verb "{args[0]}"; {did_you_mean(args[0], VERBS)}.', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, VERBS))
        for section, verbs in SECTIONS.items():
            with formatter.section(section):
                commands = ((verb, self.get_command(ctx, verb)) for verb in verbs)
                rows = [(verb.ljust(width), command.get_short_help_str(90)) for verb, command in commands if command]
                formatter.write_dl(rows)
        with formatter.section("Examples"):
            for line in EXAMPLES.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; return its exit code.

        User errors, signals and full disks become a paragraph on stderr here, before click sees the exception. Any
        other exception is a defect and propagates with its traceback.
        """
        from convergence.runs.signals import Stopped

        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            return super().invoke(ctx)
        except UserError as error:
            return _fail(str(error), EXIT_USER)
        except Stopped as stop:
            return _fail(f"{stop}; {RESUME}", EXIT_RESUME)
        except KeyboardInterrupt:
            return _fail(f"interrupted; {RESUME}", EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise
        except OSError as error:
            from convergence.io.files import explained

            found = explained(error)
            if found is None:
                raise
            return _fail(str(found), EXIT_USER)


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,
    subcommand_metavar="VERB [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="convergence", message="%(prog)s %(version)s")
def command() -> None:
    """Do neural networks trained apart learn the same features?

    A config (a .toml file, see configs/) describes an experiment. The stages write their results to runs/NAME/. A stage
    that is finished for the same settings is skipped; a changed setting runs the stages that depend on it again.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Usage errors are one paragraph on stderr with exit code 2, like all errors that the user can fix.
    """
    prepare_streams()
    use_writable_caches()
    if arguments is None:
        put_toolkit_first()
    os.environ["MPLBACKEND"] = "agg"  # of a notebook: a backend that needs its kernel
    try:
        code = _command(arguments)
    except BrokenPipeError:
        code = EXIT_PIPE
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        code = _fail(f"standard output cannot be written: {error.strerror}", EXIT_USER)
    try:
        flush_output()
    except BrokenPipeError:
        code = EXIT_PIPE
    except OSError as error:
        code = _fail(f"standard output cannot be written: {error.strerror}", EXIT_USER)
    drop_output()
    return code


def _command(arguments: Sequence[str] | None) -> int:
    """Run the command with click; return its exit code."""
    streams = sys.stdout, sys.stderr
    try:
        code = command.main(arguments, prog_name="convergence", standalone_mode=False)
    except click.ClickException as error:
        ctx = getattr(error, "ctx", None)
        path = ctx.command_path if ctx is not None else "convergence"
        text = " ".join(error.format_message().split())
        return _fail(f"{text} See `{path} --help`.", EXIT_USER)
    except click.Abort:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except SystemExit as error:
        if streams == (sys.stdout, sys.stderr):
            raise
        sys.stdout, sys.stderr = streams  # click wraps them and ends the process for a closed pipe
        raise BrokenPipeError from error
    return int(code or EXIT_DONE)


def _fail(message: str, code: int) -> int:
    with suppress(OSError):  # standard error is a closed pipe
        print(f"convergence: {message}", file=sys.stderr, flush=True)
    return code
