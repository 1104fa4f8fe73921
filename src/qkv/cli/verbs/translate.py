"""Translate lines with a trained model."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_run, add_search, positive, translator_of
from qkv.cli.streams import complain, in_chunks, input_lines, is_terminal, one_line, put
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.translator import Translator


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--input", metavar="FILE", help="one source a line; standard input by default")
    parser.add_argument("--output", metavar="FILE", help="standard output by default")
    parser.add_argument("--n-best", type=positive, metavar="N", help="print N outputs: line number, score, text")
    add_search(parser)


def run(options: Namespace) -> None:
    if options.input is None and options.output is None and is_terminal(sys.stdin, sys.stdout):
        _converse(translator_of(options), options)
    else:
        lines = input_lines(options.input)
        put(_translated(translator_of(options), lines, options, progress=is_terminal(sys.stderr)), options.output)


def _translated(
    translator: "Translator", lines: Iterator[str], options: Namespace, *, progress: bool = False
) -> Iterator[str]:
    """The lines to print for some sources."""
    search = {"beam": options.beam, "length_penalty": options.length_penalty, "progress": progress}
    if options.n_best is None:
        yield from map(one_line, in_chunks(lines, lambda chunk: translator.translate(chunk, **search)))
        return
    found = in_chunks(lines, lambda chunk: translator.n_best(chunk, options.n_best, **search))
    for number, outputs in enumerate(found, start=1):
        yield from (f"{number}\t{output.score:.4f}\t{one_line(output.text)}" for output in outputs)


def _converse(translator: "Translator", options: Namespace) -> None:
    """A prompt for a person: one line in, one translation out, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())

    print("Type a source and press Enter; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            put(_translated(translator, iter([input("> ")]), options))
        except EOFError:
            print(file=sys.stderr)
            return
        except UnicodeDecodeError:
            complain("that was not valid UTF-8")
        except UserError as error:
            complain(str(error))
