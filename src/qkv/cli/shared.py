"""What the verbs of the command line have in common: arguments that several take, and how they read and write."""

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qkv.text.corpus import PairFiles
    from qkv.translator import Translator


def positive(text: str) -> int:
    """A number of at least 1, for `type=`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}")
    return int(text)


def add_run(parser: argparse.ArgumentParser, what: str = "a run directory") -> None:
    """The run and what a translator is loaded with; see `translator_of`."""
    parser.add_argument("run", help=what)
    parser.add_argument("--checkpoint", metavar="NAME", help="best (default), last, or one under RUN/checkpoints")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; all cores by default")


def add_pairs(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Where pairs are; see `files_of_pairs`."""
    parser.add_argument("--data", metavar="FILE", help=f"pairs as TSV, JSONL or Parquet; {otherwise}")
    parser.add_argument("--source", metavar="FILE", help="sources, one a line, aligned with --target")
    parser.add_argument("--target", metavar="FILE", help="targets, one a line, aligned with --source")


def add_search(parser: argparse.ArgumentParser) -> None:
    """How to search."""
    parser.add_argument("--beam", type=positive, metavar="N", help="beam width; 1 is greedy; the recipe's by default")
    parser.add_argument("--length-penalty", type=float, metavar="X", help="score = log-probability / length^X")
    add_engine(parser)
    parser.add_argument(
        "--shortlist",
        type=positive,
        metavar="N",
        help="look only at the N likeliest target tokens for each source token",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """What decodes; see `translator_of`."""
    parser.add_argument("--engine", metavar="NAME", help="auto, torch or ctranslate2; the recipe's by default")
    parser.add_argument("--precision", metavar="NAME", help="float32, bf16, fp16 or int8; the recipe's by default")


def translator_of(options: argparse.Namespace) -> "Translator":
    """The translator that was asked for; see `add_run`."""
    from qkv.devices import keep_freed_memory
    from qkv.translator import load

    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    keep_freed_memory()
    translator = load(
        options.run,
        checkpoint=options.checkpoint,
        device=options.device,
        engine=getattr(options, "engine", None),
        precision=getattr(options, "precision", None),
        shortlist=getattr(options, "shortlist", None),
    )
    if translator.engine.note:
        print(translator.engine.note, file=sys.stderr)
    return translator


def files_of_pairs(options: argparse.Namespace) -> "PairFiles | None":
    """Where the pairs are that were asked for; None if nothing was said."""
    from qkv.text.corpus import PairFiles

    if options.data is None and options.source is None and options.target is None:
        return None
    return PairFiles(path=options.data, source=options.source, target=options.target)


def names(text: str | None) -> list[str]:
    """Names between commas or spaces."""
    return (text or "").replace(",", " ").split()


def is_terminal(*streams: Any) -> bool:
    """Whether a person is at all of these streams."""
    return all(stream is not None and stream.isatty() for stream in streams)  # None: closed


def one_line(text: str) -> str:
    """An output may hold line ends (JSONL and Parquet can), but takes one line."""
    return text.replace("\r", " ").replace("\n", " ")


def print_lines(lines: Iterable[str]) -> None:
    """Print each as it comes."""
    for line in lines:
        print(line)


def write_file(path: str, lines: Iterable[str]) -> None:
    """Write all lines, or no file."""
    from pathlib import Path

    from qkv.files import write_lines

    write_lines(Path(path), lines)
