"""The verb that measures how fast a run is."""

import argparse
from collections.abc import Callable

from qkv.cli.shared import add_pairs, add_run, files_of_pairs, is_terminal, names, positive, write_file
from qkv.errors import UserError

Verb = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def add_verbs(verb: Verb) -> None:
    """Add the verb to the grammar; `verb` takes a name, its function and a summary."""
    added = verb("benchmark", _benchmark, "measure how fast a run trains and decodes on this machine")
    add_run(added)
    add_pairs(added, "the recipe's own by default")
    added.add_argument("--engine", metavar="A,B", help="torch, ctranslate2; all that there are by default")
    added.add_argument("--beam", type=positive, metavar="N", help="beside greedy search; the recipe's by default")
    added.add_argument("--seconds", type=positive, default=60, metavar="N", help="about how long (default: 60)")
    added.add_argument("--output", metavar="FILE", help="a .md or .json file; standard output by default")


def _benchmark(options: argparse.Namespace) -> None:
    import sys
    from pathlib import Path

    from qkv.devices import keep_freed_memory
    from qkv.measuring.benchmark import ENGINES, benchmark

    suffix = None if options.output is None else Path(options.output).suffix.lower()
    if suffix not in (None, ".md", ".json"):
        raise UserError(f"{options.output}: a benchmark's name ends in .md or .json")
    engines = names(options.engine) or ENGINES
    for engine in engines:
        if engine not in ENGINES:
            raise UserError(f"unknown engine {engine!r}; there are: {', '.join(ENGINES)}")
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    keep_freed_memory()
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
    text = found.to_json() if suffix == ".json" else found.to_markdown()
    if options.output is None:
        print(text)
    else:
        write_file(options.output, [text])
