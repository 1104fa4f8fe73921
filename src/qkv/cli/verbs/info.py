"""Describe a run."""

from argparse import ArgumentParser, Namespace


def add(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")


def run(options: Namespace) -> None:
    from qkv.run.description import describe
    from qkv.run.directory import Run

    print(describe(Run.open(options.run)))
