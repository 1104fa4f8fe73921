"""Choices by name, each declared once, beside what it does: metrics, formats, engines, architectures, verbs, …

What comes with qkv is listed where the registry is made. Another package adds to it by an entry point of the registry's
group, in its own pyproject.toml:

    [project.entry-points."qkv.metrics"]
    accuracy = "my_package.scores:ACCURACY"
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from itertools import chain
from typing import Any, Generic, TypeVar

from qkv.errors import UserError

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Entries by name; those given as "module:attribute", or "module", are imported when they are first asked for.

    Args:
        what: what an entry is called, for messages: `metric`.
        built_in: qkv's own, in the order in which they are shown; what walks through entries, and so imports them,
            takes these alone, as another package's may not load.
        group: of the entry points by which other packages add theirs; `qkv.` and the plural of `what` by default.
    """

    def __init__(self, what: str, built_in: Mapping[str, Entry | str], *, group: str | None = None):
        self.what, self.group, self.built_in = what, group or f"qkv.{what}s", built_in
        self._loaded: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name that is known; see `find` for what a user has typed."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name; nothing is imported."""
        return name in self.built_in or name in self._added

    def __iter__(self) -> Iterator[str]:
        """Names, qkv's own first; nothing is imported."""
        return chain(self.built_in, self._added)

    def __len__(self) -> int:
        return len(self.built_in) + len(self._added)

    def find(self, name: str) -> Entry:
        """The entry that a user has named; `UserError` says what was meant, or why a package's own does not load."""
        self.check(name)
        return self[name]

    def check(self, *names: str) -> None:
        """Refuse names that `find` would not find; nothing is imported."""
        for name in names:
            if name not in self:
                raise UserError(f"unknown {self.what} {name!r}; {did_you_mean(name, self)}")

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        """Entries of other packages; a name that qkv has itself stays qkv's."""
        return {point.name: point for point in entry_points(group=self.group) if point.name not in self.built_in}

    def _load(self, name: str) -> Any:
        if name in self.built_in:
            entry = self.built_in[name]
            return EntryPoint(name, entry, self.group).load() if isinstance(entry, str) else entry
        point = self._added[name]
        try:
            return point.load()
        except Exception as error:  # another package's fault, whatever it is
            owner = point.dist.name if point.dist is not None else point.value
            raise UserError(f"{self.what} {name!r} of the package {owner} cannot be loaded: {error}") from error


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """What an error says of a name that is not known: the nearest that is, with a prefix if given, or all of them."""
    known = list(known)
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else f"there are: {', '.join(known)}"
