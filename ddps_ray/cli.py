"""The command line: `ddps <command> --config run.yaml` runs a stage, and says a user's mistake in one line."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from ddps_ray import config
from ddps_ray.errors import UserError

COMMANDS = {
    "run": ("ddps_ray.pipeline.every", "go through all stages that the recipe needs"),
    "index": ("ddps_ray.pipeline.index", "list the data set: images, classes, splits"),
    "pretrain": ("ddps_ray.pipeline.pretrain", "train a small diffusion model, where model.path is `pretrained`"),
    "score": ("ddps_ray.pipeline.score", "find each image's most typical patch with the diffusion model"),
    "distill": ("ddps_ray.pipeline.distill", "cluster and rank the patches, and write the distilled sets"),
    "teacher": ("ddps_ray.pipeline.teacher", "train the teacher, where teacher.weights is `trained`"),
    "evaluate": ("ddps_ray.pipeline.evaluate", "train students on the distilled sets, and test them"),
    "report": ("ddps_ray.report.page", "put figures and tables into one HTML page"),
}
"""Module and purpose of each command that takes a recipe: `run`, then the stages in their order."""

_QUICKSTART = "try a whole run on a small drawn data set, without a download"
_EXAMPLES = """\
examples:
  ddps quickstart
  ddps run --config run.yaml
  ddps evaluate --config run.yaml --set evaluate.epochs=100 --set "evaluate.seeds=[0, 1]"

A stage that has finished does nothing the second time; after an interruption the same command goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Its words; by default those of the command line.

    Returns:
        Exit code: 0 done; 2 the user has something to put right, said on stderr in one line; 130 interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        # Imported only now: Ray and torch take seconds to load, which --help and a mistyped key need not wait for.
        if args.command == "quickstart":
            stay_on_loopback(None)
            import_module("ddps_ray.quickstart.run").run(args.out, args.full, args.set)
        else:
            recipe = config.load(args.config, args.set)
            stay_on_loopback(recipe.address)
            import_module(COMMANDS[args.command][0]).run(recipe)
    except KeyboardInterrupt:
        print("ddps: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        mistake = user_error(error)
        if mistake is None:
            raise
        print(f"ddps: {mistake}", file=sys.stderr)
        return 2
    return 0


def stay_on_loopback(address: str | None) -> None:
    """Sees to it that a Ray which this process starts listens on loopback only; Ray reads this when it is imported.

    Args:
        address: Cluster that is joined instead, if any.
    """
    if address is None and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def user_error(error: BaseException) -> str | None:
    """Returns the line of the UserError that an exception is or, raised in a Ray worker, was; None if it is a bug.

    Where the worker was an actor that died, or ran a function of Ray Data, Ray keeps the UserError as text only: a line
    of the message that begins with its name.
    """
    if type(error) is UserError:
        return str(error)
    name = re.escape(f"{UserError.__module__}.{UserError.__qualname__}")
    lines = re.findall(rf"^{name}: (.+)$", str(error), re.MULTILINE)
    return lines[-1] if lines else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddps",
        description="Distils an image data set into a few real patches a class, with a diffusion model as the judge.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    quickstart = commands.add_parser("quickstart", help=_QUICKSTART, description=_QUICKSTART)
    quickstart.add_argument("--out", default="quickstart-run", metavar="DIR", help="folder to make (%(default)s)")
    quickstart.add_argument("--full", action="store_true", help="every size and seed, not just enough to see it work")
    _add_set(quickstart)
    for name, (_, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("--config", required=True, metavar="RUN.YAML", help="the recipe of the run")
        _add_set(command)
    return parser


def _add_set(command: argparse.ArgumentParser) -> None:
    text = "a setting that wins over the recipe's, e.g. score.pairs=5; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=text)


if __name__ == "__main__":
    sys.exit(main())
