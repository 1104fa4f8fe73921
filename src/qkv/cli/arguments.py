"""Arguments that several verbs take, and what is made of them."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.text.corpus import PairFiles
    from qkv.translator import Translator


def positive(text: str) -> int:
    """A number of at least 1, for `type=`."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}")
    return int(text)


def add_recipe(parser: ArgumentParser, what: str = "a YAML recipe", changes: str = "changes to the recipe") -> None:
    """A recipe and changes to it, which may come after options, too: train RECIPE --resume key=value."""
    parser.add_argument("recipe", help=what)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=changes)


def add_run(parser: ArgumentParser, what: str = "a run directory") -> None:
    """The run and what a translator is loaded with; see `translator_of`."""
    parser.add_argument("run", help=what)
    add_checkpoint(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; all cores by default")


def add_checkpoint(parser: ArgumentParser) -> None:
    """Which of the run's checkpoints."""
    parser.add_argument("--checkpoint", metavar="NAME", help="best (default), last, or one under RUN/checkpoints")


def add_pairs(parser: ArgumentParser, otherwise: str = "the recipe's data.test by default") -> None:
    """Where pairs are; see `files_of_pairs`."""
    parser.add_argument("--data", metavar="FILE", help=f"pairs as TSV, JSONL or Parquet; {otherwise}")
    parser.add_argument("--source", metavar="FILE", help="sources, one a line, aligned with --target")
    parser.add_argument("--target", metavar="FILE", help="targets, one a line, aligned with --source")


def add_beam(parser: ArgumentParser, what: str = "beam width; 1 is greedy; the recipe's by default") -> None:
    """How wide to search."""
    parser.add_argument("--beam", type=positive, metavar="N", help=what)


def add_search(parser: ArgumentParser) -> None:
    """How to search."""
    add_beam(parser)
    parser.add_argument("--length-penalty", type=float, metavar="X", help="score = log-probability / length^X")
    add_engine(parser)
    shortlist = "look only at the N likeliest target tokens for each source token"
    parser.add_argument("--shortlist", type=positive, metavar="N", help=shortlist)


def add_engine(parser: ArgumentParser) -> None:
    """What decodes; see `translator_of`."""
    from qkv.decoding.engines import PRECISIONS
    from qkv.decoding.engines.registry import ENGINES

    for name, choices in (("--engine", ENGINES), ("--precision", PRECISIONS)):
        parser.add_argument(name, metavar="NAME", help=f"{', '.join(choices)}; the recipe's by default")


def add_head(parser: ArgumentParser, layer: str, head: str) -> None:
    """A layer and a head, counted from 1 as people do; what there is if they are not said."""
    parser.add_argument("--layer", type=positive, metavar="N", help=f"counted from 1; {layer}")
    parser.add_argument("--head", type=positive, metavar="N", help=f"counted from 1; {head}")


def translator_of(options: Namespace) -> "Translator":
    """The translator that was asked for; see `add_run`."""
    from qkv.translator import load

    set_up_process(options)
    how = {name: getattr(options, name, None) for name in ("engine", "precision", "shortlist")}
    translator = load(options.run, checkpoint=options.checkpoint, device=options.device, **how)
    if translator.engine.note:
        print(translator.engine.note, file=sys.stderr)
    return translator


def set_up_process(options: Namespace) -> None:
    """What a command may do to its own process, and a library never to its host's: threads, and freed memory kept."""
    import torch

    from qkv.devices import keep_freed_memory

    keep_freed_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def files_of_pairs(options: Namespace) -> "PairFiles | None":
    """Where the pairs are that were asked for; None if nothing was said."""
    from qkv.text.corpus import PairFiles

    if options.data is None and options.source is None and options.target is None:
        return None
    return PairFiles(path=options.data, source=options.source, target=options.target)


def files_or_test(options: Namespace) -> "PairFiles":
    """Where the pairs are that were asked for, or else the recipe's test pairs."""
    from qkv.run.directory import Run
    from qkv.run.preparation import pair_files

    config, files = Run.open(options.run).config, files_of_pairs(options)
    if files is None and config.data.test is None:
        raise UserError(f"{options.run}: its recipe has no data.test; say --data FILE, or --source FILE --target FILE")
    return files or pair_files(config, "test")


def names(text: str | None) -> list[str]:
    """Names between commas or spaces."""
    return (text or "").replace(",", " ").split()
