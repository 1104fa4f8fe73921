"""The tokenised corpus on disk, memory-mapped: it is tokenised once, and may be larger than memory.

A directory holds, for each side, all ids in one file end to end (`source.ids`; uint16, or uint32 for a
large vocabulary), the length of each sequence (`source.lengths`, int32) and where each one begins
(`source.offsets`, int64, the end of the last one too); and meta.json. Every sequence ends with eos. Numbers
are little-endian.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, compress, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qkv.errors import UserError
from qkv.files import new_directory, to_json
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizer, Tokenizers

VERSION = 1
PAIRS_AT_ONCE = 8192


class EncodedCorpus:
    """Pairs of id sequences on disk; nothing is read before it is asked for.

    Attributes:
        source_lengths: length of each source, eos included; int32, memory-mapped.
        target_lengths: length of each target, eos included; int32, memory-mapped.
        dropped: how many pairs were left out when it was written (empty on a side, or too long).
        max_length: longer pairs were left out.
        made_from: what the writer said about the files that the pairs came from; None if nothing.
    """

    def __init__(self, directory: str | Path, meta: dict[str, Any]) -> None:
        self.directory = Path(directory)
        self.dropped: int = meta["dropped"]
        self.max_length: int = meta["max_length"]
        self.made_from: Any = meta.get("made_from")
        pairs = meta["pairs"]
        self._source_ids = self._map("source.ids", meta["source_dtype"], meta["source_tokens"])
        self._target_ids = self._map("target.ids", meta["target_dtype"], meta["target_tokens"])
        self._source_offsets = self._map("source.offsets", "<i8", pairs + 1)
        self._target_offsets = self._map("target.offsets", "<i8", pairs + 1)
        self.source_lengths = self._map("source.lengths", "<i4", pairs)
        self.target_lengths = self._map("target.lengths", "<i4", pairs)

    @classmethod
    def open(cls, directory: str | Path) -> "EncodedCorpus":
        """Open what `write_encoded` has written.

        Raises:
            UserError: it is missing, damaged or of another version.
        """
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
        return self._source_ids[self._source_offsets[index] : self._source_offsets[index + 1]]

    def target(self, index: int | np.integer) -> npt.NDArray[Any]:
        """Ids of one target, eos last."""
        return self._target_ids[self._target_offsets[index] : self._target_offsets[index + 1]]

    def sources(self, indices: npt.NDArray[np.integer]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Ids of several sources, end to end, and the length of each."""
        lengths = self.source_lengths[indices]
        return self._source_ids[_positions(self._source_offsets[indices], lengths)], lengths

    def targets(self, indices: npt.NDArray[np.integer]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Ids of several targets, end to end, and the length of each."""
        lengths = self.target_lengths[indices]
        return self._target_ids[_positions(self._target_offsets[indices], lengths)], lengths

    def _map(self, name: str, dtype: str, count: int) -> npt.NDArray[Any]:
        path = self.directory / name
        if path.stat().st_size != count * np.dtype(dtype).itemsize:  # all that is checked of what may be gigabytes
            raise ValueError(path)
        # A plain view of the map: slicing np.memmap itself costs ten times as much.
        return np.memmap(path, dtype, "r", shape=(count,)).view(np.ndarray)


def _positions(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """start, start + 1, … start + length − 1 of one sequence after another."""
    before = np.cumsum(lengths, dtype=np.int64) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


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
        directory: where the corpus shall lie.
        pairs: read once, in order.
        tokenizers: of both sides.
        max_length: pairs with more tokens on a side, eos included, are dropped; so are pairs empty on a side.
        sampling: see `Tokenizer.encode`; the result is a pure function of the pairs, `sampling` and `seed`.
        seed: of the sampling.
        made_from: kept with the corpus: what tells the files that the pairs come from.

    Raises:
        UserError: no pair is left, or the disk cannot be written.
    """
    directory = Path(directory)
    try:
        with new_directory(directory) as new:
            _write(new, pairs, tokenizers, max_length, sampling, seed, made_from)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return EncodedCorpus.open(directory)


def _write(
    directory: Path,
    pairs: Iterable[Pair],
    tokenizers: Tokenizers,
    max_length: int,
    sampling: float,
    seed: int,
    made_from: Any,
) -> None:
    read = kept = 0
    with (
        _Side(directory, "source", tokenizers.source) as source,
        _Side(directory, "target", tokenizers.target) as target,
    ):
        for number, some in enumerate(_chunks(pairs, PAIRS_AT_ONCE)):
            source_seed, target_seed = np.random.SeedSequence((seed, number)).generate_state(2).tolist()
            sources = tokenizers.source.encode([pair[0] for pair in some], sampling, seed=source_seed)
            targets = tokenizers.target.encode([pair[1] for pair in some], sampling, seed=target_seed)
            fitting = _fitting(sources, max_length) & _fitting(targets, max_length)
            source.append(list(compress(sources, fitting)))
            target.append(list(compress(targets, fitting)))
            read, kept = read + len(some), kept + int(fitting.sum())
    if kept == 0:
        raise UserError(f"none of {read} pairs is left: all are empty or longer than max_length={max_length} tokens")
    meta = {"version": VERSION, "pairs": kept, "dropped": read - kept, "max_length": max_length}
    meta |= source.meta | target.meta | ({} if made_from is None else {"made_from": made_from})
    (directory / "meta.json").write_text(to_json(meta, indent=2), "utf-8")


def _chunks(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    iterator = iter(pairs)
    while some := list(islice(iterator, size)):
        yield some


def _lengths(sequences: list[list[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(map(len, sequences), "<i4", len(sequences))


def _fitting(sequences: list[list[int]], max_length: int) -> npt.NDArray[np.bool_]:
    lengths = _lengths(sequences)
    return (lengths > 0) & (lengths < max_length)


class _Side:
    """Writes the three files of one side."""

    def __init__(self, directory: Path, name: str, tokenizer: Tokenizer) -> None:
        self.name = name
        self.eos = tokenizer.eos
        self.dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
        self.tokens = 0
        self.ids, self.lengths, self.offsets = (
            (directory / f"{name}.{what}").open("wb") for what in ("ids", "lengths", "offsets")
        )
        np.zeros(1, "<i8").tofile(self.offsets)

    @property
    def meta(self) -> dict[str, Any]:
        return {f"{self.name}_dtype": self.dtype, f"{self.name}_tokens": self.tokens}

    def append(self, sequences: list[list[int]]) -> None:
        lengths = _lengths(sequences) + np.int32(1)
        ends = np.cumsum(lengths, dtype="<i8")
        tokens = int(lengths.sum())
        is_eos = np.zeros(tokens, np.bool_)
        is_eos[ends - 1] = True
        ids = np.full(tokens, self.eos, self.dtype)
        ids[~is_eos] = np.fromiter(chain.from_iterable(sequences), self.dtype, tokens - len(sequences))
        ids.tofile(self.ids)
        lengths.tofile(self.lengths)
        (self.tokens + ends).tofile(self.offsets)
        self.tokens += tokens

    def __enter__(self) -> "_Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self.ids, self.lengths, self.offsets):
            file.close()
