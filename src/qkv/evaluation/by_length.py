"""How good outputs are for short and for long sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qkv.metrics import Settings, compute_for_pairs
from qkv.text.corpus import Pair

_BUCKET_WIDTH = 10
_PAIRS_PER_BUCKET = 20


@dataclass(frozen=True)
class LengthBucket:
    """The pairs whose sources have from `low` to `high` words or characters, and what the metric says of them."""

    low: int
    high: int
    pairs: int
    value: float


def length_unit(sources: Sequence[str]) -> str:
    """`words` if most sources have more than one, else `characters`."""
    spaced = sum(len(source.split()) > 1 for source in sources)
    return "words" if 2 * spaced > len(sources) else "characters"


def quality_by_length(
    pairs: Sequence[Pair], output_of: Mapping[str, str], metric: str, unit: str, settings: Settings | None = None
) -> list[LengthBucket]:
    """The metric for sources of length 1–10, 11–20, …, neighbours merged until each has about 20 pairs.

    `unit` is what `length_unit` says, `settings` are those of the whole.
    """
    by_bucket: dict[int, list[Pair]] = {}
    for pair in pairs:
        length = len(pair.source.split()) if unit == "words" else len(pair.source)
        by_bucket.setdefault(max(0, length - 1) // _BUCKET_WIDTH, []).append(pair)
    merged: list[tuple[int, int, list[Pair]]] = []
    for bucket, inside in sorted(by_bucket.items()):
        low, high = bucket * _BUCKET_WIDTH + 1, (bucket + 1) * _BUCKET_WIDTH
        if merged and len(merged[-1][2]) < _PAIRS_PER_BUCKET:
            low, _, before = merged.pop()
            inside = before + inside
        merged.append((low, high, inside))
    if len(merged) > 1 and len(merged[-1][2]) < _PAIRS_PER_BUCKET:
        _, high, last = merged.pop()
        low, _, before = merged.pop()
        merged.append((low, high, before + last))
    return [
        LengthBucket(low, high, len(inside), compute_for_pairs([metric], inside, output_of, settings)[metric].value)
        for low, high, inside in merged
    ]
