"""Two text files: line n of the one belongs to line n of the other."""

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

from qkv.errors import UserError
from qkv.text.lines import lines_of


def read_aligned(source_path: Path, target_path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of two files; `UserError` if one is longer than the other."""
    sources, targets = lines_of(source_path), lines_of(target_path)
    for count, (source, target) in enumerate(zip_longest(sources, targets)):
        if source is None or target is None:
            longest = count + 1 + sum(1 for _ in chain(sources, targets))
            lines = (count, longest) if source is None else (longest, count)
            raise UserError(
                f"{source_path} has {lines[0]} lines but {target_path} has {lines[1]}; "
                "aligned files need the same number of lines"
            )
        yield source, target
