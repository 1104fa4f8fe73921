"""What became of pairs as they were encoded. The books balance: read = kept + dropped, tokens = known + unknown."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

_SHOWN = 40  # characters of an unknown word; 66,000 bases are one if no base is known


@dataclass
class Count:
    """How many there are, and the first of them: the number of its pair, from 1, and what is to be seen there."""

    number: int = 0
    pair: int = 0
    what: str = ""

    def add(self, pair: int, number: int = 1) -> None:
        """More of them, in the pair of this number."""
        self.pair = self.pair or pair
        self.number += number


@dataclass
class Balance:
    """Of an encoded corpus.

    Attributes:
        read: pairs that there were.
        kept: those that were encoded.
        dropped: the others, by reason.
        tokens: of the pairs kept, eos included, by side.
        unknown: how many of these are unk, by side; empty if nobody has counted.
        compared: so many targets, the first, were encoded and decoded to see whether they come back.
        changed: those of them that do not, by reason.
    """

    read: int = 0
    kept: int = 0
    dropped: dict[str, Count] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, Count] = field(default_factory=dict)
    compared: int = 0
    changed: dict[str, Count] = field(default_factory=dict)

    def enter(self, reasons: Iterable[str | None]) -> None:
        """More pairs: for each the reason why it is dropped, or None."""
        for reason in reasons:
            self.read += 1
            if reason is None:
                self.kept += 1
            else:
                self.dropped.setdefault(reason, Count()).add(self.read)

    @classmethod
    def of(cls, meta: dict[str, Any]) -> "Balance":
        """From what `to_meta` gave, or from what was written before there was a balance: a sum without reasons."""
        if "balance" not in meta:
            dropped = {"empty or too long": Count(meta["dropped"])} if meta["dropped"] else {}
            tokens = {side: meta[f"{side}_tokens"] for side in ("source", "target")}
            return cls(meta["pairs"] + meta["dropped"], meta["pairs"], dropped, tokens)
        said = dict(meta["balance"])
        for name in ("dropped", "unknown", "changed"):
            said[name] = {key: Count(**count) for key, count in said[name].items()}
        return cls(**said)

    def to_meta(self) -> dict[str, Any]:
        """For meta.json; `dropped` is what earlier versions of qkv read."""
        return {"balance": asdict(self), "dropped": self.read - self.kept}

    def losses(self) -> Iterator[str]:
        """A line for each kind of thing that was lost: how many, why, and where the first is."""
        if self.dropped:
            yield f"pairs left out: {_share(self.read - self.kept, self.read)}: {self.reasons()}"
        yield from self.unknown_tokens().values()
        if self.changed:
            share = _share(sum(count.number for count in self.changed.values()), self.compared)
            where = "" if self.compared == self.kept else " among the first"
            yield f"targets that the tokenizer does not give back as they are{where}: {share}: {_said(self.changed)}"

    def reasons(self) -> str:
        """How many pairs were dropped for what."""
        return _said(self.dropped)

    def unknown_tokens(self) -> dict[str, str]:
        """A line for each side that has any: how many, and the first."""
        return {
            side: f"{side} tokens that the tokenizer does not know: {_share(count.number, self.tokens[side])}, "
            f"first: {_spelled(count.what)} in pair {count.pair:,}"
            for side, count in self.unknown.items()
            if count.number
        }

    def rows(self) -> Iterator[str]:
        """The books, for a person: pairs, and tokens of each side."""
        dropped = f", {self.read - self.kept:,} left out ({self.reasons()})" if self.dropped else ""
        yield f"{self.read:,} pairs read, {self.kept:,} kept{dropped}"
        for side, tokens in self.tokens.items():
            text = f"{tokens:,} {side} tokens"
            if side in self.unknown:
                unknown = self.unknown[side].number
                text += f", {tokens - unknown:,} known, {unknown:,} unknown"
            yield text


def _share(number: int, total: int) -> str:
    return f"{number:,} of {total:,} ({100 * number / total:.3g} %)"


def _said(counts: dict[str, Count]) -> str:
    return ", ".join(
        f"{count.number:,} {reason}" + (f" (first: pair {count.pair:,})" if count.pair else "")
        for reason, count in counts.items()
    )


def _spelled(symbol: str) -> str:
    if len(symbol) == 1:
        return f"{symbol!r} (U+{ord(symbol):04X})"
    return repr(symbol if len(symbol) <= _SHOWN else symbol[:_SHOWN] + "…")
