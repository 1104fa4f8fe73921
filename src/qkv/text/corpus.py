"""Pairs of strings, read from files one at a time.

Two aligned text files (line n of one belongs to line n of the other), TSV, JSON Lines and Parquet
are read as streams, so a corpus may be larger than memory. A fault in a file is a `UserError` that names
the file and, where there is one, the line.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from qkv.errors import UserError

FORMATS = ("tsv", "jsonl", "parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Pair(NamedTuple):
    """One example: what the model reads and what it shall write."""

    source: str
    target: str


@dataclass(frozen=True)
class PairFiles:
    """Where pairs lie: one file in `path`, or two aligned text files in `source` and `target`.

    Args:
        path: a TSV, JSON Lines or Parquet file that holds both sides.
        source: a text file with one source a line; goes with `target`.
        target: a text file with one target a line.
        format: "tsv", "jsonl" or "parquet"; taken from the suffix of `path` if left out.
        source_column: the column (or JSON key) of the source; default "source", in TSV the number 0.
        target_column: the column (or JSON key) of the target; default "target", in TSV the number 1.

    Raises:
        UserError: these values do not fit together.
    """

    path: str | Path | None = None
    source: str | Path | None = None
    target: str | Path | None = None
    format: str | None = None
    source_column: str | int | None = None
    target_column: str | int | None = None

    def __post_init__(self) -> None:
        if self.path is not None and (self.source is not None or self.target is not None):
            raise UserError("pairs: give either 'path' (one file) or 'source' and 'target' (two), not both")
        if self.path is None and (self.source is None or self.target is None):
            raise UserError("pairs: give 'path' (one file), or both 'source' and 'target' (two aligned files)")
        if self.format is not None and self.format not in FORMATS:
            raise UserError(f"pairs: unknown format {self.format!r}; choose from {', '.join(FORMATS)}")
        if self.path is None and (self.format, self.source_column, self.target_column) != (None, None, None):
            raise UserError("pairs: 'format' and columns belong to 'path'; aligned text files have none")

    @classmethod
    def of(cls, files: "PairFiles | dict[str, Any] | str | Path") -> "PairFiles":
        """`files` itself, or built from a mapping of its fields (as in a recipe) or the path of one file."""
        if isinstance(files, PairFiles):
            return files
        if isinstance(files, dict):
            known = [field.name for field in fields(cls)]
            for key in files:
                if key not in known:
                    nearest = get_close_matches(str(key), known, n=1) or [", ".join(known)]
                    raise UserError(f"pairs: unknown key {key!r}; did you mean {nearest[0]}?")
            return cls(**files)
        return cls(path=files)


def read_pairs(files: PairFiles | dict[str, Any] | str | Path) -> Iterator[Pair]:
    """The pairs in `files`, in order, one at a time. Only line ends are stripped; empty lines are kept as "".

    Raises:
        UserError: at once, if a file is missing or its format unknown; while reading, if two files differ in
            length, a line is not UTF-8, a column or key is missing, or there is no pair at all.
    """
    files = PairFiles.of(files)
    if files.path is None:
        paths = [Path(path) for path in (files.source, files.target) if path is not None]
        pairs = _read_aligned(*paths)
    else:
        paths = [Path(files.path)]
        pairs = _read_table(files, paths[0])
    for path in paths:
        _check_file(path)
    return _not_empty(pairs, paths)


def read_lines(file: str | Path | Iterable[bytes]) -> Iterator[str]:
    """The lines of UTF-8 text, in a file or in a stream such as `sys.stdin.buffer`, without their line ends.

    Raises:
        UserError: at once, if the file is missing; while reading, if a line is not UTF-8.
    """
    if not isinstance(file, str | Path):
        return _decoded(file, "standard input")
    _check_file(Path(file))
    return _decoded_lines(Path(file))


def group_references(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Sources without repetition, in order of first appearance, and for each one all its targets.

    A word with several pronunciations stands in several pairs; any of them is a right answer.
    """
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(target)
    return list(references), list(references.values())


def _check_file(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _decoded_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _decoded(file, str(path))


def _decoded(file: Iterable[bytes], name: str) -> Iterator[str]:
    # Bytes are split at "\n" alone: str.splitlines would also split at form feeds, U+2028 and others.
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            fault = f"byte {error.start + 1} of the line, 0x{line[error.start]:02x}"
            raise UserError(f"{name}:{number}: not valid UTF-8 ({fault}); convert it to UTF-8") from None
        yield text.removesuffix("\n").removesuffix("\r")


def _not_empty(pairs: Iterator[Pair], paths: list[Path]) -> Iterator[Pair]:
    first = next(pairs, None)
    if first is None:
        raise UserError(f"{' and '.join(map(str, paths))}: no pairs in it; the corpus is empty")
    yield from chain([first], pairs)


def _read_aligned(source_path: Path, target_path: Path) -> Iterator[Pair]:
    sources, targets = _decoded_lines(source_path), _decoded_lines(target_path)
    count = 0
    while True:
        source, target = next(sources, None), next(targets, None)
        if source is None and target is None:
            return
        if source is None or target is None:
            longest = count + 1 + sum(1 for _ in chain(sources, targets))
            lines = (count, longest) if source is None else (longest, count)
            raise UserError(
                f"{source_path} has {lines[0]} lines but {target_path} has {lines[1]}; "
                "aligned files need the same number of lines"
            )
        yield Pair(source, target)
        count += 1


def _read_table(files: PairFiles, path: Path) -> Iterator[Pair]:
    kind = files.format or path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"{path}: the suffix does not tell the format; set 'format' to {', '.join(FORMATS)}")
    if kind == "tsv":
        return _read_tsv(path, _column_number(files.source_column, 0), _column_number(files.target_column, 1))
    source = "source" if files.source_column is None else str(files.source_column)
    target = "target" if files.target_column is None else str(files.target_column)
    return (_read_jsonl if kind == "jsonl" else _read_parquet)(path, source, target)


def _column_number(column: str | int | None, default: int) -> int:
    if column is None:
        return default
    if isinstance(column, bool) or not str(column).isdecimal():
        raise UserError(f"pairs: a TSV column is a number counted from 0, not {column!r}")
    return int(column)


def _read_tsv(path: Path, source: int, target: int) -> Iterator[Pair]:
    needed = max(source, target) + 1
    for number, line in enumerate(_decoded_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) < needed:
            raise UserError(f"{path}:{number}: {needed} tab-separated columns needed, found {len(columns)}")
        yield Pair(columns[source], columns[target])


def _read_jsonl(path: Path, source: str, target: str) -> Iterator[Pair]:
    for number, line in enumerate(_decoded_lines(path), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: a JSON object is needed, found {line.strip()[:40]!r}")
        for key in (source, target):
            if not isinstance(record.get(key), str):
                found = f"keys: {', '.join(record)}" if key not in record else f"it is {record[key]!r}"
                raise UserError(f"{path}:{number}: no text under the key {key!r} ({found})")
        pair = Pair(record[source], record[target])
        try:
            "".join(pair).encode("utf-8")
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no character
            raise UserError(f"{path}:{number}: a lone surrogate (\\ud800 to \\udfff) is not text") from None
        yield pair


def _read_parquet(path: Path, source: str, target: str) -> Iterator[Pair]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; run: pip install 'qkv[parquet]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None
    with file:
        columns = file.schema_arrow.names
        for column in (source, target):
            if column not in columns:
                raise UserError(f"{path}: no column {column!r}; its columns are {', '.join(columns)}")
        row = 0
        for batch in file.iter_batches(columns=list({source, target})):
            for pair in zip(batch.column(source).to_pylist(), batch.column(target).to_pylist(), strict=True):
                row += 1
                if not all(isinstance(text, str) for text in pair):
                    raise UserError(f"{path}: row {row}: text needed in {source!r} and {target!r}, found {pair}")
                yield Pair(*pair)
