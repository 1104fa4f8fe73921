"""`qkv info`: what a run is."""

from argparse import ArgumentParser, Namespace

from qkv.cli.verb import Verb


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")


def _run(options: Namespace) -> None:
    from qkv.run.description import describe
    from qkv.run.directory import Run

    print(describe(Run.open(options.run)))


VERB = Verb("describe a run", _add, _run)
