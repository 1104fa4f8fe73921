"""Translate lines with a trained model."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_run, add_search, positive, translator_of
from qkv.cli.chunks import Lines, Raw, Tally, add_on_error, answers
from qkv.cli.streams import complain, is_terminal, one_line, put
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.translator import Translation, Translator


def add(parser: ArgumentParser) -> None:
    add_run(parser, several=True)
    parser.add_argument("--input", metavar="FILE", help="one source a line; standard input by default")
    parser.add_argument("--output", metavar="FILE", help="standard output by default")
    n_best = "print N different outputs: line number, score, text, and `cut off` where the length limit ended one"
    parser.add_argument("--n-best", type=positive, metavar="N", help=n_best)
    add_on_error(parser, "; cut: a source that is too long is cut, another bad line skipped")
    unknown = "where the output has an unknown symbol: mark it ⁇ (default), copy the source's by attention, or drop it"
    parser.add_argument("--unknown", choices=("mark", "copy", "drop"), default="mark", help=unknown)
    add_search(parser)


def run(options: Namespace) -> None:
    if options.input is None and options.output is None and is_terminal(sys.stdin, sys.stdout):
        _converse(translator_of(options), options)
        return
    lines = Lines(options.input)  # which are read while the model is loaded
    translator, tally = translator_of(options), Tally(lines.place)
    progress = is_terminal(sys.stderr) and not lines.waits
    found = _translated(translator, lines, lines.text, tally, options, progress=progress)
    try:
        put(found, options.output)
    finally:
        tally.tell()


def _translated(
    translator: "Translator",
    chunks: Iterable[list[Raw]],
    text: Callable[[int, Raw], str],
    tally: Tally,
    options: Namespace,
    *,
    progress: bool = False,
) -> Iterator[str]:
    """The lines to print for some sources."""
    search = {"beam": options.beam, "length_penalty": options.length_penalty}
    search |= {"unknown": options.unknown, "progress": progress}

    def work(numbers: list[int], texts: list[str]) -> list[str]:
        sources = translator.read(texts, cut=options.on_error == "cut")
        if options.n_best is None:
            results = list(map(one_line, translator.translate(sources, **search)))
        else:
            lists = zip(numbers, translator.n_best(sources, options.n_best, **search), strict=True)
            results = ["\n".join(_listed(number, output) for output in outputs) for number, outputs in lists]
        for index, tokens in sources.cut.items():
            tally.cut(numbers[index], tokens, len(sources.ids[index]))
        for index, symbols in sources.unknown.items():
            tally.unknown(numbers[index], symbols)
        return results

    found = answers(chunks, text, work, tally, skip=options.on_error != "stop")
    for number, line in enumerate(found, start=1):
        yield (f"{number}\t\t" if options.n_best else "") if line is None else line


def _listed(number: int, output: "Translation") -> str:
    """A line of an n-best list."""
    return f"{number}\t{output.score:.4f}\t{one_line(output.text)}" + ("" if output.finished else "\tcut off")


def _converse(translator: "Translator", options: Namespace) -> None:
    """A prompt for a person: one line in, one translation out, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())

    print("Type a source and press Enter; Ctrl-D ends.", file=sys.stderr)
    while True:
        tally = Tally(lambda _: "this line")
        try:
            put(_translated(translator, [[input("> ")]], lambda _, line: line, tally, options))
        except EOFError:
            print(file=sys.stderr)
            return
        except UnicodeDecodeError:
            complain("that was not valid UTF-8")
        except UserError as error:
            complain(str(error))
        tally.tell()
