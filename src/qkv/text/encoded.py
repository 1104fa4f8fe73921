"""The tokenised corpus on disk, memory-mapped: it is tokenised once, and may be larger than memory.

A directory holds, for each side, all ids in one file end to end (`source.ids`; uint16, or uint32 for a
large vocabulary), the length of each sequence (`source.lengths`, int32) and where each one begins
(`source.offsets`, int64, the end of the last one too); and meta.json. Every sequence ends with eos. Numbers
are little-endian.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qkv.errors import UserError
from qkv.files import explained, new_directory, to_json
from qkv.text.balance import Balance, Count
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizer, Tokenizers

VERSION = 1
PAIRS_AT_ONCE = 8192
Rows = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]  # ids that lie end to end, and the length of each row


class EncodedCorpus:
    """Pairs of id sequences on disk; nothing is read before it is asked for.

    Attributes:
        source_lengths: length of each source, eos included; int32, memory-mapped.
        target_lengths: length of each target, eos included; int32, memory-mapped.
        balance: what was read, kept and dropped when it was written.
        made_from: what the writer said about the files that the pairs came from; None if nothing.
    """

    def __init__(self, directory: str | Path, meta: dict[str, Any]) -> None:
        self.directory = Path(directory)
        self.balance = Balance.of(meta)
        self.made_from: Any = meta.get("made_from")
        self._source, self._target = (_Side(self.directory / name, meta) for name in ("source", "target"))
        self.source_lengths, self.target_lengths = self._source.lengths, self._target.lengths

    @classmethod
    def open(cls, directory: str | Path) -> "EncodedCorpus":
        """Open what `write_encoded` has written; `UserError` if it is missing, damaged or of another version."""
        path = Path(directory) / "meta.json"
        try:
            meta = json.loads(path.read_text("utf-8"))
            if meta["version"] != VERSION:
                raise UserError(f"{path}: version {meta['version']}, this qkv reads {VERSION}; encode it again")
            return cls(directory, meta)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename or path}: no such file; encode the corpus again") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{directory}: the encoded corpus is damaged; delete it and encode it again") from None

    def __len__(self) -> int:
        return len(self.source_lengths)

    def source(self, index: int | np.integer) -> npt.NDArray[Any]:
        """Ids of one source, eos last."""
        return self._source[index]

    def target(self, index: int | np.integer) -> npt.NDArray[Any]:
        """Ids of one target, eos last."""
        return self._target[index]

    def rows(self, indices: npt.NDArray[np.integer]) -> tuple[Rows, Rows]:
        """Several sources, and their targets."""
        return self._source.rows(indices), self._target.rows(indices)


class _Side:
    """The three files of one side, whose names begin with `path`."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self._ids = _mapped(path.with_suffix(".ids"), meta[f"{path.name}_dtype"], meta[f"{path.name}_tokens"])
        self._offsets = _mapped(path.with_suffix(".offsets"), "<i8", meta["pairs"] + 1)
        self.lengths = _mapped(path.with_suffix(".lengths"), "<i4", meta["pairs"])

    def __getitem__(self, index: int | np.integer) -> npt.NDArray[Any]:
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    def rows(self, indices: npt.NDArray[np.integer]) -> Rows:
        lengths = self.lengths[indices]
        before = np.cumsum(lengths, dtype=np.int64) - lengths
        # start, start + 1, … start + length − 1 of one sequence after another.
        places = np.arange(int(lengths.sum())) + np.repeat(self._offsets[indices] - before, lengths)
        return self._ids[places], lengths


def _mapped(path: Path, dtype: str, count: int) -> npt.NDArray[Any]:
    if path.stat().st_size != count * np.dtype(dtype).itemsize:  # all that is checked of what may be gigabytes
        raise ValueError(path)
    # A plain view of the map: slicing np.memmap itself costs ten times as much.
    return np.memmap(path, dtype, "r", shape=(count,)).view(np.ndarray)


def write_encoded(
    directory: str | Path,
    pairs: Iterable[Pair],
    tokenizers: Tokenizers,
    *,
    max_length: int,
    sampling: float = 0.0,
    seed: int = 0,
    made_from: Any = None,
) -> EncodedCorpus:
    """Tokenise pairs into `directory`, streaming. What was there is replaced, but only once all is written.

    Args:
        max_length: pairs with more tokens on a side, eos included, are dropped; so are pairs empty on a side.
        sampling: see `Tokenizer.encode`; the result is a pure function of the pairs, `sampling` and `seed`.
        seed: of the sampling.
        made_from: kept with the corpus: what tells the files that the pairs come from.

    Raises:
        UserError: no pair is left, or the disk cannot be written.
    """
    directory, balance = Path(directory), Balance()
    with explained(directory), new_directory(directory) as new:
        writers = [_Writer(new / "source", tokenizers.source), _Writer(new / "target", tokenizers.target)]
        for number, some in enumerate(_chunks(pairs, PAIRS_AT_ONCE)):
            sides: list[list[_Entry]] = []
            seeds = np.random.SeedSequence((seed, number)).generate_state(2).tolist()
            for writer, lines, own in zip(writers, zip(*some, strict=True), seeds, strict=True):
                ids = writer.tokenizer.encode(lines, sampling, seed=own)
                sides.append(list(map(_Entry, count(balance.read + 1), lines, ids)))
            reasons = [
                _reason_to_drop(len(source.ids), len(target.ids), max_length)
                for source, target in zip(*sides, strict=True)
            ]
            balance.enter(reasons)
            kept = [list(compress(entries, (reason is None for reason in reasons))) for entries in sides]
            if number == 0:
                balance.compared, balance.changed = len(kept[1]), _changed(kept[1], tokenizers.target)
            for writer, entries in zip(writers, kept, strict=True):
                writer.append(entries)
        if balance.kept == 0:
            raise UserError(f"none of {balance.read:,} pairs is left: {balance.reasons()}; max_length={max_length}")
        for writer in writers:
            balance.tokens[writer.name], balance.unknown[writer.name] = writer.tokens, writer.unknown
        meta = {"version": VERSION, "pairs": balance.kept, "max_length": max_length} | balance.to_meta()
        meta |= writers[0].meta | writers[1].meta | ({} if made_from is None else {"made_from": made_from})
        (new / "meta.json").write_text(to_json(meta, indent=2), "utf-8")
    return EncodedCorpus.open(directory)


class _Entry(NamedTuple):
    """One side of a pair, and the pair's number."""

    pair: int
    text: str
    ids: list[int]


def _reason_to_drop(source: int, target: int, max_length: int) -> str | None:
    """Why a pair of so many tokens, without eos, is not kept; None if it is."""
    for side, length in (("source", source), ("target", target)):
        if length == 0:
            return f"empty {side}"
    for side, length in (("source", source), ("target", target)):
        if length >= max_length:
            return f"{side} too long"
    return None


def _changed(targets: Sequence[_Entry], tokenizer: Tokenizer) -> dict[str, Count]:
    """Those that do not come back as they were, by reason."""
    changed: dict[str, Count] = {}
    for target, decoded in zip(targets, tokenizer.decode([target.ids for target in targets]), strict=True):
        if decoded == target.text:
            continue
        if tokenizer.unk in target.ids:
            reason = "for unknown symbols"
        elif decoded.replace(" ", "") == target.text.replace(" ", ""):
            reason = "for spaces, which tokenizer.spaces=keep would keep"
        else:
            reason = "for normalisation"
        changed.setdefault(reason, Count()).add(target.pair)
    return changed


def _chunks(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    iterator = iter(pairs)
    while some := list(islice(iterator, size)):
        yield some


class _Writer:
    """Appends to the three files of one side."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.name, self.tokenizer, self.tokens, self.unknown = path.name, tokenizer, 0, Count()
        self._path = path
        self._dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
        self._write("offsets", np.zeros(1, "<i8"))

    @property
    def meta(self) -> dict[str, Any]:
        return {f"{self.name}_dtype": self._dtype, f"{self.name}_tokens": self.tokens}

    def append(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            entry.ids.append(self.tokenizer.eos)
        lengths = np.fromiter((len(entry.ids) for entry in entries), "<i4", len(entries))
        self._write("lengths", lengths)
        self._write("offsets", self.tokens + np.cumsum(lengths, dtype="<i8"))
        tokens = np.fromiter(chain.from_iterable(entry.ids for entry in entries), self._dtype, int(lengths.sum()))
        self._write("ids", tokens)
        self.tokens += len(tokens)
        unk = self.tokenizer.unk
        for entry in entries if unk in tokens else ():
            if number := entry.ids.count(unk):
                self.unknown.add(entry.pair, number)
                self.unknown.what = self.unknown.what or next(iter(self.tokenizer.unknown(entry.text)), "")

    def _write(self, what: str, numbers: npt.NDArray[Any]) -> None:
        with self._path.with_suffix(f".{what}").open("ab") as file:
            numbers.tofile(file)
