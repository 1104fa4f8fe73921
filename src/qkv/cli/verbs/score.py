"""Print how probable a model finds given targets: log-probability, perplexity."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_engine, add_pairs, add_run, files_of_pairs, read_as_said, translator_of
from qkv.cli.chunks import Lines, Tally, add_on_error, answers, in_chunks
from qkv.cli.streams import complain, is_terminal
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.decoding.scoring import TargetScore
    from qkv.text.corpus import Pair
    from qkv.text.formats.tsv import Table


def add(parser: ArgumentParser) -> None:
    add_run(parser, several=True)
    add_pairs(parser, "TSV lines from standard input by default")
    parser.add_argument("--tokens", action="store_true", help="also print every token with its log-probability")
    add_on_error(parser)
    add_engine(parser)


def run(options: Namespace) -> None:
    from qkv.text.corpus import Pair, read_pairs

    chunks: Iterable[Sequence[Pair | bytes]]
    files = files_of_pairs(options, stream=True)
    if files is None:
        rows = _Rows(options)
        place, chunks = rows.lines.place, rows.lines
    else:
        place, chunks = "pair {:,}".format, in_chunks(read_pairs(files, complain))
    translator, tally = translator_of(options), Tally(place)
    progress = is_terminal(sys.stderr) and (files is not None or not rows.lines.waits)

    def read(number: int, raw: Pair | bytes) -> Pair | None:
        return raw if isinstance(raw, Pair) else rows.pair(number, raw)

    def work(_: list[int], pairs: list[Pair]) -> "list[TargetScore]":
        return translator.score(pairs, progress=progress)

    found = answers(chunks, read, work, tally, skip=options.on_error == "skip")
    try:
        for number, score in enumerate(found, start=1):
            if files is not None or number > rows.header:
                print("" if score is None else _line(score, tokens=options.tokens))
    finally:
        tally.tell()
        if files is None:
            rows.tell()


class _Rows:
    """Pairs in lines of standard input, which are read while the model is loaded."""

    def __init__(self, options: Namespace):
        from qkv.text.corpus import PairFiles

        if options.format not in (None, "tsv"):
            raise UserError(f"standard input is read as TSV; --format {options.format} goes with --data FILE")
        self.lines = Lines(None)
        self._how = read_as_said(options, PairFiles(path=self.lines.name, format="tsv"))
        self._table: Table | None = None

    @property
    def header(self) -> int:
        """How many lines are a header."""
        return 0 if self._table is None else self._table.header

    def pair(self, number: int, line: bytes) -> "Pair | None":
        """The pair of a line, or None if it is the header; `UserError` if it has too few columns."""
        from qkv.text.corpus import Pair
        from qkv.text.formats.tsv import Table

        row, how = self.lines.text(number, line).split("\t"), self._how
        if self._table is None:
            self._table = Table(row, self.lines.name, how.source_column, how.target_column, how.header, complain)
        return None if number <= self._table.header else Pair(*self._table.pair(number, row))

    def tell(self) -> None:
        """Say how many rows had another number of columns, if any had."""
        if self._table is not None:
            self._table.tell()


def _line(score: "TargetScore", *, tokens: bool) -> str:
    columns = [f"{score.log_probability:.4f}", f"{score.perplexity:.4f}"]
    if tokens:
        values = zip(score.tokens, score.token_log_probabilities, strict=True)
        columns.append(" ".join(f"{token}:{value:.4f}" for token, value in values))
    return "\t".join(columns)
