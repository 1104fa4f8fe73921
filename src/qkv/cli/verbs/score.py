"""Print how probable a model finds given targets: log-probability, perplexity."""

import sys
from argparse import ArgumentParser, Namespace
from itertools import count

from qkv.cli.arguments import add_engine, add_pairs, add_run, files_of_pairs, translator_of
from qkv.cli.streams import in_chunks, input_lines, is_terminal
from qkv.errors import UserError


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    add_pairs(parser, "TSV lines from standard input by default")
    parser.add_argument("--tokens", action="store_true", help="also print every token with its log-probability")
    add_engine(parser)


def run(options: Namespace) -> None:
    from qkv.text.corpus import Pair, read_pairs

    def pair_of(number: int, line: str) -> Pair:
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(f"standard input:{number}: no tab; write source TAB target")
        return Pair(*columns[:2])

    files = files_of_pairs(options)
    pairs = map(pair_of, count(1), input_lines(None)) if files is None else read_pairs(files)
    translator, progress = translator_of(options), is_terminal(sys.stderr)
    for score in in_chunks(pairs, lambda chunk: translator.score(chunk, progress=progress)):
        columns = [f"{score.log_probability:.4f}", f"{score.perplexity:.4f}"]
        if options.tokens:
            tokens = zip(score.tokens, score.token_log_probabilities, strict=True)
            columns.append(" ".join(f"{token}:{value:.4f}" for token, value in tokens))
        print("\t".join(columns))
