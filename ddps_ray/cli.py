"""The command line: `ddps <command> --config run.yaml` runs a stage, and says a user's mistake in one line."""

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ddps_ray import __version__, interruption
from ddps_ray.console import say

Option = tuple[str, dict[str, Any]]
"""A flag of a command, and the rest of what argparse is told about it."""


@dataclass(frozen=True)
class Command:
    """What a command does.

    Attributes:
        module: Where its `run` is.
        purpose: One line for the help.
        options: Its own flags; `run` gets their values by name.
        settings: Flags that stand for a setting of the recipe, by their key.
    """

    module: str
    purpose: str
    options: tuple[Option, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def positive_number(text: str) -> int:
    """A whole number above 0, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


_RETRY: Option = ("--retry-failed", {"action": "store_true", "help": "try the images in quarantine again, too"})
_REFRESH: Option = ("--refresh", {"action": "store_true", "help": "list a data set that has grown again"})
_OUT: Option = ("--out", {"required": True, "metavar": "DIR", "help": "folder or URI to make"})
_GPU: Option = ("--gpu", {"default": "l4", "metavar": "TYPE", "help": "GPU type, e.g. l4, a100, h100 (%(default)s)"})
_PRICE: Option = ("--price", {"type": float, "metavar": "N", "help": "price of a GPU-hour, in any currency"})
_USED: Option = (
    "--utilisation",
    {"type": float, "default": 0.35, "metavar": "F", "help": "share of the GPU's peak that is reached (%(default)s)"},
)

_GPUS: Option = ("--gpus", {"type": int, "default": 8, "metavar": "N", "help": "GPUs that evaluate (%(default)s)"})

_JUDGE: Option = ("--judge", {"action": "store_true", "help": "try the judge here, even if that takes long"})

COMMANDS = {
    "run": Command("ddps_ray.pipeline.every", "go through all stages that the recipe needs"),
    "index": Command(
        "ddps_ray.pipeline.index",
        "list the data set: images, classes, splits",
        (_REFRESH,),
        {"--per-class": "data.per_class", "--seed": "data.seed"},
    ),
    "pack": Command("ddps_ray.pipeline.pack", "copy the images of an index into a few Parquet files", (_OUT,)),
    "plan": Command(
        "ddps_ray.planning",
        "say what scoring and evaluation would take, and try the judge where that is quick; no Ray is started",
        (_GPU, _PRICE, _USED, _JUDGE, _GPUS),
    ),
    "pretrain": Command(
        "ddps_ray.pipeline.pretrain", "train a small diffusion model, where model.path is `pretrained`"
    ),
    "score": Command(
        "ddps_ray.pipeline.score", "find each image's most typical patch with the diffusion model", (_RETRY,)
    ),
    "distill": Command("ddps_ray.pipeline.distill", "cluster and rank the patches, and write the distilled sets"),
    "teacher": Command("ddps_ray.pipeline.teacher", "train the teacher, where teacher.weights is `trained`"),
    "relabel": Command("ddps_ray.pipeline.relabel", "store the soft labels that evaluate.labels asks for"),
    "evaluate": Command("ddps_ray.pipeline.evaluate", "train students on the distilled sets, and test them"),
    "report": Command("ddps_ray.report.page", "put figures and tables into one HTML page"),
}
"""Each command that takes a recipe: `run`, then the stages in their order."""

BENCHES = {
    "bookkeeping": Command(
        "ddps_ray.bench.bookkeeping",
        "what a data set of ImageNet's size costs besides the diffusion model",
        (
            (
                "--images",
                {
                    "type": positive_number,
                    "default": 1_281_167,
                    "metavar": "N",
                    "help": "size of the data set (%(default)s)",
                },
            ),
        ),
    ),
    "training": Command(
        "ddps_ray.bench.training",
        "steps a second of a student's training beside a plain loop, and what decoded images save",
        (
            (
                "--students",
                {
                    "nargs": "+",
                    "metavar": "ARCH@PIXELS",
                    "help": "by default convnet4@64, resnet18@224, and on a GPU resnet101@224",
                },
            ),
            (
                "--rounds",
                {"type": positive_number, "default": 10, "metavar": "N", "help": "turns of each loop (%(default)s)"},
            ),
            (
                "--steps",
                {"type": positive_number, "default": 2, "metavar": "N", "help": "steps in a turn (%(default)s)"},
            ),
            (
                "--images",
                {
                    "type": positive_number,
                    "default": 5000,
                    "metavar": "N",
                    "help": "images that are decoded (%(default)s)",
                },
            ),
        ),
    ),
}
"""Each measurement that `ddps bench` makes; `run` also gets the folder."""

INSPECTIONS = {
    "status": Command("ddps_ray.inspection.status", "say how far a run is, from its files alone"),
    "verify": Command(
        "ddps_ray.inspection.verify", "check a run's scores and distilled sets, file by file; repairs nothing"
    ),
}
"""Each command that takes a run directory; `run` gives the exit code."""

TABLE = Command(
    "ddps_ray.report.table",
    "print what students reached, in the paper's layouts",
    (
        (
            "--format",
            {"dest": "form", "choices": ("markdown", "latex", "csv"), "default": "markdown", "help": "%(default)s"},
        ),
        (
            "--layout",
            {
                "choices": ("sets", "ipc", "students", "teachers", "bytes"),
                "default": "sets",
                "help": "what the rows are: sets by IPC, IPCs by set, sets by student, teachers by student, or sets by "
                "their size (%(default)s)",
            },
        ),
        (
            "--metric",
            {
                "choices": ("last", "best"),
                "default": "last",
                "help": "accuracy of the last epoch, or of the best, which is chosen on the test images (%(default)s)",
            },
        ),
        ("--out", {"metavar": "FILE", "help": "file or URI to write; by default the table is printed"}),
    ),
)
"""The command that takes one or several run directories."""

_QUICKSTART = "try a whole run on a small drawn data set, without a download"
_BENCH = "measure on this machine what the work costs"
_EXAMPLES = """\
examples:
  ddps quickstart
  ddps run --config run.yaml
  ddps evaluate --config run.yaml --set evaluate.epochs=100 --set "evaluate.seeds=[0, 1]"

A stage that has finished does nothing the second time; after an interruption the same command goes on.
"""

atexit.register(gc.freeze)  # a process leaves with all its objects: to look through Ray's and torch's takes 2 s


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Its words; by default those of the command line.

    Returns:
        Exit code: 0 done; 1 `verify` found something wrong, 3 it found images that are not scored; 2 the user has
        something to put right, said on stderr in one line; 130 interrupted, by Ctrl-C or `ray job stop`.
    """
    args = _parser().parse_args(argv)
    places: list[str] = []
    try:
        interruption.take_sigterm()
        return _do(args, places)
    except KeyboardInterrupt:
        print("ddps: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        atexit.register(
            signal.signal, signal.SIGINT, signal.SIG_IGN
        )  # Ray ends what it began, even if one is impatient
        return 130
    except Exception as error:
        mistake = import_module("ddps_ray.remedies").user_error(error, *places)
        if mistake is None:
            raise
        print(f"ddps: {mistake}", file=sys.stderr)
        return 2


def _do(args: argparse.Namespace, places: list[str]) -> int:
    """Runs the command that was named; returns its exit code.

    All but argparse is imported only here, as it is needed: Ray and torch take seconds to load.

    Args:
        args: The command's words.
        places: Gets the run directory, and then whatever else the command writes to.
    """
    if args.command in INSPECTIONS:
        places.append(args.run_dir)
        return int(import_module(INSPECTIONS[args.command].module).run(args.run_dir))
    if args.command == "table":
        places += [*args.run_dirs, *([args.out] if args.out else [])]
        import_module(TABLE.module).run(args.run_dirs, args.layout, args.metric, args.form, args.out)
        return 0
    if args.command == "quickstart":
        places.append(f"{args.out}/run")
        stay_on_loopback(None)
        say(f"quickstart: starting ddps {__version__} in {args.out}")
        import_module("ddps_ray.quickstart.run").run(args.out, args.full, args.set)
        return 0
    if args.command == "bench":
        places.append(args.out)
        stay_on_loopback(None)
        say(f"bench: starting ddps {__version__} in {args.out}")
        bench = BENCHES[args.bench]
        import_module(bench.module).run(args.out, **_options(args, bench))
        return 0
    command = COMMANDS[args.command]
    recipe = import_module("ddps_ray.config").load(args.config, args.set)
    places += [recipe.run_dir, *([args.out] if "out" in args else [])]
    stay_on_loopback(recipe.address)
    say(f"{args.command}: starting ddps {__version__} in {recipe.run_dir}")
    import_module(command.module).run(recipe, **_options(args, command))
    return 0


def stay_on_loopback(address: str | None) -> None:
    """Sees to it that a Ray which this process starts listens on loopback only; Ray reads this when it is imported.

    Args:
        address: Cluster that is joined instead, if any.
    """
    if address is None and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddps",
        description="Distils an image data set into a few real patches a class, with a diffusion model as the judge.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    quickstart = commands.add_parser("quickstart", help=_QUICKSTART, description=_QUICKSTART)
    quickstart.add_argument("--out", default="quickstart-run", metavar="DIR", help="folder to make (%(default)s)")
    quickstart.add_argument("--full", action="store_true", help="every size and seed, not just enough to see it work")
    _add_set(quickstart)
    for name, command in COMMANDS.items():
        words = commands.add_parser(name, help=command.purpose, description=command.purpose)
        words.add_argument("--config", required=True, metavar="RUN.YAML", help="the recipe of the run")
        _add_set(words)
        for flag, key in command.settings.items():
            words.add_argument(
                flag, dest="set", action="append", type=f"{key}={{}}".format, metavar="N", help=f"sets {key}"
            )
        for flag, said in command.options:
            words.add_argument(flag, **said)
    bench = commands.add_parser("bench", help=_BENCH, description=_BENCH)
    measurements = bench.add_subparsers(dest="bench", required=True, metavar="WHAT", title="measurements")
    for name, command in BENCHES.items():
        words = measurements.add_parser(name, help=command.purpose, description=command.purpose)
        words.add_argument("--out", default="bench", metavar="DIR", help="folder to make and to delete (%(default)s)")
        for flag, said in command.options:
            words.add_argument(flag, **said)
    for name, command in INSPECTIONS.items():
        words = commands.add_parser(name, help=command.purpose, description=command.purpose)
        words.add_argument("run_dir", metavar="RUN", help="folder or URI of the run")
    table = commands.add_parser("table", help=TABLE.purpose, description=TABLE.purpose)
    table.add_argument("run_dirs", nargs="+", metavar="RUN", help="folder or URI of a run that has been evaluated")
    for flag, said in TABLE.options:
        table.add_argument(flag, **said)
    return parser


def _options(args: argparse.Namespace, command: Command) -> dict[str, Any]:
    """Values of a command's own flags, by name."""
    return {_name(flag): getattr(args, _name(flag)) for flag, _ in command.options}


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _add_set(command: argparse.ArgumentParser) -> None:
    text = "a setting that wins over the recipe's, e.g. score.pairs=5; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=text)


if __name__ == "__main__":
    sys.exit(main())
