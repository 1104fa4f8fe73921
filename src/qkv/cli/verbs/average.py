"""Average the last checkpoints of a run into a new one."""

from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import positive
from qkv.cli.streams import complain


def add(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--last", type=positive, default=5, metavar="N", help="how many checkpoints (default: 5)")
    parser.add_argument("--use", action="store_true", help="make it the one that the run uses from now on")


def run(options: Namespace) -> None:
    from qkv.files import point
    from qkv.run.checkpoint import average_run, averaged_checkpoints
    from qkv.run.directory import Run
    from qkv.run.lock import locked

    run = Run.open(options.run)
    with locked(run):
        averaged = average_run(run, options.last)
        if options.use:
            point(run.best_path, averaged)
    if (count := len(averaged_checkpoints(averaged))) < options.last:
        complain(f"averaged {count} checkpoints, all that {run.path} has, of {options.last} asked for")
    print(averaged)
