"""Print how probable a model finds given targets: log-probability, perplexity."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_engine, add_pairs, add_run, files_of_pairs, read_as_said, translator_of
from qkv.cli.streams import complain, in_chunks, input_lines, is_terminal
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.text.corpus import Pair


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    add_pairs(parser, "TSV lines from standard input by default")
    parser.add_argument("--tokens", action="store_true", help="also print every token with its log-probability")
    add_engine(parser)


def run(options: Namespace) -> None:
    pairs = _pairs(options)
    translator, progress = translator_of(options), is_terminal(sys.stderr)
    for score in in_chunks(pairs, lambda chunk: translator.score(chunk, progress=progress)):
        columns = [f"{score.log_probability:.4f}", f"{score.perplexity:.4f}"]
        if options.tokens:
            tokens = zip(score.tokens, score.token_log_probabilities, strict=True)
            columns.append(" ".join(f"{token}:{value:.4f}" for token, value in tokens))
        print("\t".join(columns))


def _pairs(options: Namespace) -> "Iterator[Pair]":
    from qkv.text.corpus import Pair, PairFiles, read_pairs
    from qkv.text.formats.tsv import pairs_of

    files = files_of_pairs(options, stream=True)
    if files is not None:
        return read_pairs(files, complain)
    if options.format not in (None, "tsv"):
        raise UserError(f"standard input is read as TSV; --format {options.format} goes with --data FILE")
    name = "standard input"
    how = read_as_said(options, PairFiles(path=name, format="tsv"))
    read = pairs_of(input_lines(None), name, how.source_column, how.target_column, how.header, complain, ahead=0)
    return map(Pair._make, read)
