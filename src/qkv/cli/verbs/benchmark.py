"""Measure how fast a run trains and decodes on this machine."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from qkv.cli.arguments import add_beam, add_pairs, add_run, files_of_pairs, names, positive, set_up_process
from qkv.cli.streams import is_terminal, put
from qkv.errors import UserError


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    add_pairs(parser, "the recipe's own by default")
    parser.add_argument("--engine", metavar="A,B", help="torch, ctranslate2; all that there are by default")
    add_beam(parser, "beside greedy search; the recipe's by default")
    parser.add_argument("--seconds", type=positive, default=60, metavar="N", help="about how long (default: 60)")
    parser.add_argument("--output", metavar="FILE", help="a .md or .json file; standard output by default")


def run(options: Namespace) -> None:
    from qkv.measuring.benchmark import MEASURED, benchmark

    suffix = None if options.output is None else Path(options.output).suffix.lower()
    if suffix not in (None, ".md", ".json"):
        raise UserError(f"{options.output}: a benchmark's name ends in .md or .json")
    engines = names(options.engine) or MEASURED
    if unknown := [engine for engine in engines if engine not in MEASURED]:
        raise UserError(f"unknown engine {unknown[0]!r}; there are: {', '.join(MEASURED)}")
    set_up_process(options)
    found = benchmark(
        options.run,
        files=files_of_pairs(options),
        checkpoint=options.checkpoint,
        device=options.device,
        engines=engines,
        beam=options.beam,
        seconds=float(options.seconds),
        progress=is_terminal(sys.stderr),
    )
    put([found.to_json() if suffix == ".json" else found.to_markdown()], options.output)
