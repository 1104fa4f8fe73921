"""`qkv score`: how probable given targets are."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_engine, add_pairs, add_run, files_of_pairs, translator_of
from qkv.cli.streams import in_chunks, input_lines, is_terminal
from qkv.cli.verb import Verb
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.text.corpus import Pair


def _add(parser: ArgumentParser) -> None:
    add_run(parser)
    add_pairs(parser, "TSV lines from standard input by default")
    parser.add_argument("--tokens", action="store_true", help="also print every token with its log-probability")
    add_engine(parser)


def _run(options: Namespace) -> None:
    from qkv.text.corpus import read_pairs

    files = files_of_pairs(options)
    pairs = _pairs_of_input() if files is None else read_pairs(files)
    translator, progress = translator_of(options), is_terminal(sys.stderr)
    for score in in_chunks(pairs, lambda chunk: translator.score(chunk, progress=progress)):
        columns = [f"{score.log_probability:.4f}", f"{score.perplexity:.4f}"]
        if options.tokens:
            tokens = zip(score.tokens, score.token_log_probabilities, strict=True)
            columns.append(" ".join(f"{token}:{value:.4f}" for token, value in tokens))
        print("\t".join(columns))


def _pairs_of_input() -> "Iterator[Pair]":
    from qkv.text.corpus import Pair

    for number, line in enumerate(input_lines(None), start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(f"standard input:{number}: no tab; write source TAB target")
        yield Pair(*columns[:2])


VERB = Verb("print how probable a model finds given targets: log-probability, perplexity", _add, _run)
