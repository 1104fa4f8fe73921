"""What a file format has to say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Say = Callable[[str], None]
"""Where a reader tells, in a line, what the user should know and the pairs do not show."""


def unsaid(text: str) -> None:
    """Tell nobody: for a second pass over what was read already."""


@dataclass(frozen=True)
class Format:
    """A format of files that hold both sides of their pairs.

    Attributes:
        suffixes: of file names, in lower case, that tell it: `(".tsv",)`.
        read: the pairs, source and target, one at a time, of the file at a path, given the columns of source and target
            as a recipe writes them. It raises `UserError` naming file and line.
        columns: where the recipe does not say.
        numbered: whether columns have numbers, and names at most in a header line. Then `read` is given None where the
            recipe does not say, and two things more: whether there is a header (None: that is for it to find out), and
            where to tell what it has found.
    """

    suffixes: tuple[str, ...]
    read: Callable[..., Iterator[tuple[str, str]]]
    columns: tuple[str, str] = ("source", "target")
    numbered: bool = False
