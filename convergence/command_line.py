"""The command line as a parser: verbs, options, and what ``--help`` says of them."""

from __future__ import annotations

import argparse

from convergence import __version__

EPILOG = """\
stages, in order:
  train        nets from seeds (and untrained ones)   -> runs/<name>/nets/
  statistics   sums over the evaluation images        -> runs/<name>/statistics.h5
  analyze      matching, LASSO, clusters, measures    -> runs/<name>/analysis.h5
  pictures     what the units look like               -> runs/<name>/pictures.h5
  stitch, merge, compress, ensemble, train --averaging
               what nets do when units, layers or weights of others take the place of their own, where the config
               enables it                             -> runs/<name>/functional/
  report       figures, tables and one page           -> runs/<name>/report/index.html

A stage that was done for the same settings is skipped; a changed setting re-runs the stages that it touches.

before:
  pack         an image folder as one file a split     -> runs/<name>/packed/

afterwards:
  paper        tables and figures beside the paper's   -> runs/<name>/paper/
  figures      figures for a publication               -> runs/<name>/figures/
  compare      two runs side by side, on a page        -> runs/<name>/comparisons/

on the laptop, with nothing but the file of sums (a path that ends in .h5 in the place of a config):
  fetch        a run's results, or some of its layers, from another machine; resumes, verifies
  slice        a statistics file cut to some layers, nets and image groups
  analyze, report, show FILE.h5                        -> beside the file

on a cluster, with a profile of the site:
  submit       all of it as Slurm jobs that wait for each other; --dry-run prints them
  plan         jobs, GPU-hours, bytes and times beforehand
  status       what is done, runs, waits or failed, and why; logs; cancel
  doctor       what is wrong with this machine, and the remedy

examples:
  convergence run configs/digits.toml
  convergence show configs/digits.toml
  convergence paper runs/digits
  convergence figures runs/digits --format pdf --width 3.25in
  convergence run configs/digits.toml --set analysis.rotations=50
  convergence fetch cluster:runs/digits --comparison conv1
  convergence analyze statistics.h5
  mpiexec -n 4 convergence statistics configs/photos.toml
  convergence submit configs/digits.toml --cluster configs/clusters/local_test.toml
"""
CLUSTER_VERBS = ("submit", "plan", "status", "logs", "cancel", "doctor")


def build_parser() -> argparse.ArgumentParser:
    """The command line, as a parser."""
    parser = argparse.ArgumentParser(
        prog="convergence",
        description="Do neural networks trained apart learn the same features?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"convergence {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, about in (
        ("run", "all stages, and the path of the report"),
        ("train", "train the nets of a config"),
        ("statistics", "sum over the evaluation images (also under mpiexec or srun)"),
        ("analyze", "compute alignments and measures from the sums"),
        ("pictures", "make pictures of units: top patches, deconvolution, maximisation, filters"),
        ("stitch", "layers of one net computed from another's, by mappings of several kinds"),
        ("merge", "two nets or more made one: loss along the way, before and after alignment"),
        ("compress", "units that others stand in for taken out, and what accuracy is left"),
        ("ensemble", "nets that answer together, and what of them can be shared"),
        ("report", "draw figures and write the page"),
        ("show", "the resolved config and what is done; computes nothing"),
        ("pack", "turn an image folder into one file a split (also under mpiexec or srun)"),
    ):
        verb_parser = verbs.add_parser(verb, help=about, description=about[0].upper() + about[1:] + ".")
        _add_config(verb_parser)
        if verb == "pack":
            verb_parser.add_argument("--out", metavar="DIR", help="where the files go (default: <run>/packed)")
        elif verb != "show":
            _add_overwrite(verb_parser)
        if verb in ("run", "report"):
            verb_parser.add_argument(
                "--single-file", action="store_true", help="the report also as one file: report/single-file.html"
            )
        if verb == "report":
            verb_parser.add_argument("--compare", metavar="RUN", help="another run's folder, on a page of its own")
        if verb in ("run", "analyze"):
            _add_workers(verb_parser)
        _add_file_options(verb_parser, verb)
        if verb == "train":
            verb_parser.add_argument(
                "--net",
                dest="nets",
                action="append",
                default=[],
                metavar="NAME",
                help="only this net; may be repeated",
            )
            verb_parser.add_argument(
                "--averaging",
                action="store_true",
                help="no net of the config, but workers that train apart and average their weights now and then",
            )
    _add_paper(verbs)
    _add_figures(verbs)
    _add_compare(verbs)
    _add_cluster(verbs)
    _add_transfer(verbs)
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workers of the analysis; results do not depend on them")
    group.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="worker processes; 1 is this process (default: this process for less than a minute of work, else as many "
        "as there are cores and memory)",
    )
    group.add_argument(
        "--threads", type=_positive, default=1, metavar="N", help="threads of a worker, which share its matrices"
    )
    group.add_argument(
        "--memory", type=_amount, metavar="GB", help="a worker that takes more is ended (default: its share)"
    )
    group.add_argument(
        "--lifetime",
        type=_amount,
        metavar="MIN",
        help="minutes after which a worker makes room for a new one, less than a walltime",
    )
    group.add_argument("--dashboard", action="store_true", help="serve Dask's dashboard on the loopback interface")
    group.add_argument(
        "--cluster",
        metavar="PROFILE",
        help="workers are Slurm jobs of this profile, see configs/clusters/; --workers is how many",
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a .toml file; see configs/ (run, analyze, report, show: or a statistics.h5)")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting, for example --set training.epochs=5; may be repeated",
    )
    _add_runs(parser)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where run folders are (default: ./runs)")


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete results of other settings instead of moving them to <run>/superseded/",
    )


def _add_file_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """What is chosen where a file of results stands in the place of a config."""
    if verb in ("analyze", "report"):
        what = "file" if verb == "analyze" else "folder"
        parser.add_argument("--out", metavar="PATH", help=f"of FILE.h5: {what} of the results (default: beside it)")
    if verb == "analyze":
        _add_comparisons(parser, "of FILE.h5: only this comparison; may be repeated")
    if verb == "report":
        parser.add_argument("--analysis", metavar="FILE", help="of FILE.h5: its analysis (default: beside it)")
    if verb == "show":
        parser.add_argument("--verify", action="store_true", help="of FILE.h5: hold every dataset against its checksum")


def _add_comparisons(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--comparison", dest="comparisons", action="append", default=[], metavar="NAME", help=about)


def _add_transfer(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "a statistics file cut to some comparisons, nets and image groups"
    parser = verbs.add_parser("slice", help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("source", metavar="STATISTICS.h5")
    parser.add_argument("target", metavar="OUT.h5")
    _add_comparisons(parser, "keep this comparison (default: all); may be repeated")
    parser.add_argument(
        "--net", dest="nets", action="append", default=[], metavar="NAME", help="keep this net (default: all)"
    )
    parser.add_argument("--groups", metavar="0-7", help="keep these image groups (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.h5 if it is another file")
    about = "a run's results, or some of its layers, from another machine or folder"
    parser = verbs.add_parser("fetch", help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("run", metavar="[HOST:]RUN", help="run folder; HOST as ssh takes it")
    parser.add_argument("dest", metavar="DEST", nargs="?", help="folder to bring it to (default: the run's name)")
    _add_comparisons(parser, "only the sums of this comparison, cut there by `convergence slice`; may be repeated")
    parser.add_argument("--nets", action="store_true", help="the nets' weights, too")
    parser.add_argument("--pictures", action="store_true", help="the pictures of units, too")
    parser.add_argument(
        "--functional", action="store_true", help="what stitch, merge, … found, too, with the nets that they left"
    )
    parser.add_argument("--ssh", default="ssh", metavar="COMMAND", help='how to connect, for example "ssh -p 2222"')
    parser.add_argument(
        "--remote-command",
        default="convergence",
        metavar="COMMAND",
        help="convergence there, for example /path/to/.venv/bin/convergence (default: convergence)",
    )


def _add_cluster(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for verb, about in (
        ("submit", "all stages that are missing as Slurm jobs"),
        ("plan", "jobs, GPU-hours, bytes and times of a submission; submits nothing"),
    ):
        parser = verbs.add_parser(verb, help=about, description=about[0].upper() + about[1:] + ".")
        _add_config(parser)
        parser.add_argument(
            "--cluster", required=True, metavar="PROFILE", help="what to ask of the site; see configs/clusters/"
        )
        if verb == "submit":
            _add_overwrite(parser)
            parser.add_argument("--dry-run", action="store_true", help="print the text of every job, submit nothing")
    for verb, about in (
        ("status", "what is done, runs, waits or failed, and why"),
        ("logs", "the last lines that jobs printed"),
        ("cancel", "end the jobs of a run; what they did is kept"),
    ):
        parser = verbs.add_parser(verb, help=about, description=about[0].upper() + about[1:] + ".")
        parser.add_argument("run", help="a .toml file or a run folder")
        _add_runs(parser)
        if verb == "logs":
            parser.add_argument(
                "--job",
                dest="jobs",
                action="append",
                default=[],
                metavar="NAME",
                help="only net1, train, statistics, …; may be repeated",
            )
            parser.add_argument("--follow", action="store_true", help="and what they print, until they have ended")
            parser.add_argument("--lines", type=_positive, default=20, metavar="N", help="lines of each (default: 20)")
    about = "whether this machine can carry a run: faults, each with its remedy"
    parser = verbs.add_parser("doctor", help=about, description=about[0].upper() + about[1:] + ".")
    _add_runs(parser)


def _add_paper(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "the paper's tables and figures for an analysed run, beside the published values"
    parser = verbs.add_parser("paper", help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("run", help="a run folder, for example runs/digits, or a .toml file")
    _add_runs(parser)
    parser.add_argument(
        "--pair", nargs=2, metavar=("NET1", "NET2"), help="nets to show (default: the first two trained ones)"
    )
    parser.add_argument(
        "--steps", type=_positive, default=4000, metavar="N", help="steps of the long SGD training (default: 4000)"
    )
    parser.add_argument("--out", metavar="DIR", help="where tables and figures go (default: <run>/paper)")


def _add_figures(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "figures of an analysed run for a publication: any width, fonts embedded, numbers as CSV"
    parser = verbs.add_parser("figures", help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("run", help="a run folder, for example runs/digits, or a .toml file")
    _add_runs(parser)
    parser.add_argument(
        "--format",
        dest="formats",
        action="append",
        choices=("pdf", "svg", "png"),
        default=[],
        help="may be repeated (default: pdf)",
    )
    parser.add_argument("--width", metavar="WIDTH", help="of a figure: 3.25in, 8.25cm (default: as in the report)")
    parser.add_argument("--points", type=_points, default=8.0, metavar="N", help="size of the letters (default: 8)")
    parser.add_argument("--layer", dest="layers", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument(
        "--figure",
        dest="figures",
        action="append",
        default=[],
        metavar="NAME",
        help="overview, matched_units, sparse, …; may be repeated",
    )
    parser.add_argument("--pair", nargs=2, metavar=("NET1", "NET2"), help="nets to show unit by unit")
    parser.add_argument("--no-titles", action="store_true", help="panels without titles; the caption says it")
    parser.add_argument("--out", metavar="DIR", help="where figures go (default: <run>/figures)")


def _add_compare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "two analysed runs side by side: answers, differences with intervals, settings"
    parser = verbs.add_parser("compare", help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("run", help="a run folder, or a .toml file")
    parser.add_argument("other", help="another one")
    _add_runs(parser)
    parser.add_argument("--out", metavar="DIR", help="where the page goes (default: <run>/comparisons/<other>)")


def _points(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 4 <= size <= 24:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of letters between 4 and 24 points")
    return size


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
