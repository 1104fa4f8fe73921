"""A run's model for CTranslate2: exported on first use, checked against torch, never trusted blindly."""

import hashlib
import json
import tempfile
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qkv.decoding.engines.contract import Engine, EngineKind, Opening, Request
from qkv.decoding.engines.ctranslate2_engine import COMPUTE_TYPES, CTranslate2Engine, compute_type
from qkv.decoding.engines.ctranslate2_model import (
    Quantization,
    positions_of,
    specification,
    supported_config,
    vocabulary,
    write_shortlist,
)
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.hypothesis import SearchOptions
from qkv.decoding.shortlist import Shortlist
from qkv.errors import UserError
from qkv.files import new_directory, remove_directory
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.tokenizer import Tokenizers

_FORMAT = 1
_STAMP = "engine.json"

_STORED: dict[str, Quantization] = {"float32": "none", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
"""For each precision of ours, how CTranslate2 is to store weights."""

_TOLERANCE = {"float32": 0.001, "bf16": 0.3, "fp16": 0.03, "int8": 0.5}
"""How far a token's log-probability may be from torch's, in nats; see `check_scores`."""

_TEMPORARY: list[tempfile.TemporaryDirectory[str]] = []

_GREEDY = SearchOptions(beam=1, max_length_ratio=1.0, max_length_extra=8)


def open_engine(opening: Opening, *, temporary: bool = True) -> CTranslate2Engine:
    """The model in CTranslate2: from the directory if it lies there whole and of these weights, else exported anew.

    What is exported is checked against the model before it is kept.

    Args:
        opening: see there.
        temporary: whether to export to a temporary place, each time, if the directory takes no files.

    Raises:
        UserError: if CTranslate2 cannot run this model, or not in this precision here, or its outputs differ; or if the
            directory takes no files and `temporary` is false.
    """
    model, tokenizers, precision, shortlist = opening.model, opening.tokenizers, opening.precision, opening.shortlist
    longest, device = positions_of(supported_config(model)), next(model.parameters()).device
    compute_type(precision, device)

    def load(path: Path) -> CTranslate2Engine:
        return CTranslate2Engine(
            path, tokenizers, longest=longest, precision=precision, device=device, shortlist=shortlist
        )

    def make(directory: Path) -> None:
        specification(model, tokenizers, _STORED[precision]).save(str(directory))
        if shortlist is not None:
            write_shortlist(shortlist, tokenizers, directory)
        engine = load(directory)
        reference = TorchEngine(model, tokenizers, shortlist=shortlist)
        check_scores(engine, reference, tokenizers, _TOLERANCE[precision])
        if precision == "float32":
            check_search(engine, reference, tokenizers, _TOLERANCE[precision])
        stamp = {"format": _FORMAT, "fingerprint": fingerprint, "files": _digests(directory)}
        (directory / _STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")

    fingerprint = fingerprint_of(model, tokenizers, shortlist)
    try:
        if opening.directory is None:
            raise PermissionError("nowhere to keep what it makes of the model")
        narrowed = "" if shortlist is None else f"-top{shortlist.candidates.shape[1]}"
        path = opening.directory / f"ctranslate2-{opening.checkpoint}-{precision}{narrowed}"
        if is_intact(path, fingerprint):
            return load(path)
        with new_directory(path) as new:
            make(new)
    except OSError as error:
        if not temporary:
            raise UserError(f"{opening.directory}: cannot be written ({error.strerror or error})") from None
        place = tempfile.TemporaryDirectory(prefix="qkv-")  # goes with the process
        _TEMPORARY.append(place)
        make(Path(place.name))
        return load(Path(place.name))
    _remove_orphans(opening.directory, opening.checkpoints | {opening.checkpoint})
    return load(path)


CTRANSLATE2 = EngineKind(tuple(COMPUTE_TYPES), open_engine)


def fingerprint_of(model: Seq2Seq, tokenizers: Tokenizers, shortlist: Shortlist | None = None) -> str:
    """A digest of all that an export depends on: options, weights, vocabularies and the shortlist."""
    digest = hashlib.blake2b(digest_size=16)
    names = [vocabulary(tokenizers.source), vocabulary(tokenizers.target)]
    digest.update(json.dumps([asdict(supported_config(model)), names], sort_keys=True).encode())
    tensors = {id(tensor): (name, tensor) for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    named = list(reversed(tensors.values()))  # a tied matrix once, under its first name
    if shortlist is not None:
        named += [("shortlist", shortlist.candidates), ("shortlist, always", shortlist.always)]
    for name, tensor in named:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_intact(path: Path, fingerprint: str) -> bool:
    """Whether an exported model lies there, of these weights, and byte for byte as it was written."""
    try:
        stamp: Any = json.loads((path / _STAMP).read_text(encoding="utf-8"))
        return bool(
            stamp["format"] == _FORMAT and stamp["fingerprint"] == fingerprint and stamp["files"] == _digests(path)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(path: Path) -> dict[str, str]:
    digests = {}
    for file in sorted(path.iterdir()):
        if file.name != _STAMP:
            with file.open("rb") as content:
                digests[file.name] = hashlib.file_digest(content, "blake2b").hexdigest()
    return digests


def _remove_orphans(engines: Path, checkpoints: Collection[str]) -> None:
    """Models whose checkpoint is gone."""
    for path in engines.glob("ctranslate2-*"):
        if not any(path.name.startswith(f"ctranslate2-{name}-") for name in checkpoints):
            remove_directory(path)


def check_scores(engine: Engine, reference: TorchEngine, tokenizers: Tokenizers, tolerance: float) -> None:
    """Refuse an engine that finds other probabilities than the model, on a few made-up sources.

    Args:
        engine: scores what the model finds greedily.
        reference: of the model itself.
        tokenizers: of both sides.
        tolerance: mean distance allowed between log-probabilities of a token, in nats, beside a hundredth of them.

    Raises:
        UserError: if they differ.
    """
    sources, targets = _sources_and_outputs(reference, tokenizers)
    ours, theirs = reference.score(sources, targets), engine.score(sources, targets)
    distances = [abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)]
    allowed = [tolerance + 0.01 * abs(value) for row in ours for value in row]
    if not sum(distances) <= sum(allowed):  # not a number is refused, too
        mean = sum(distances) / len(distances)
        raise UserError(f"CTranslate2 disagrees with torch on this model ({mean:.3g} nats a token): use engine torch")


def check_search(engine: Engine, reference: TorchEngine, tokenizers: Tokenizers, tolerance: float) -> None:
    """Refuse an engine whose greedy search takes other tokens than the model's, on the same sources.

    Args:
        engine: searches.
        reference: of the model itself, with the same shortlist.
        tokenizers: of both sides.
        tolerance: where two outputs part, their tokens must be as probable as each other: so close, in nats, beside a
            hundredth of them.

    Raises:
        UserError: if they differ.
    """
    sources, targets = _sources_and_outputs(reference, tokenizers)
    outputs = _greedy(engine, sources, tokenizers)
    ours, theirs = (reference.score(sources, each) for each in (targets, outputs))
    for index, (target, output) in enumerate(zip(targets, outputs, strict=True)):
        parting = next((i for i, (a, b) in enumerate(zip(target, output, strict=False)) if a != b), None)
        if parting is not None:
            best, other = ours[index][parting], theirs[index][parting]
            if best - other > tolerance + 0.01 * abs(best):
                raise UserError("CTranslate2's search disagrees with torch's on this model: use engine torch")


def _sources_and_outputs(reference: TorchEngine, tokenizers: Tokenizers) -> tuple[list[list[int]], list[list[int]]]:
    """A few sequences, the same each time, and what the model makes of them; each with its end of sentence."""
    tokenizer, generator = tokenizers.source, torch.Generator().manual_seed(0)
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk}
    ordinary = torch.tensor([token for token in range(tokenizer.vocab_size) if token not in special])
    lengths = [min(length, (reference.model.longest or length + 1) - 1) for length in (1, 2, 5, 9, 14, 20)]
    drawn = [torch.randint(len(ordinary), (length,), generator=generator) for length in lengths]
    sources = [[*ordinary[chosen].tolist(), tokenizer.eos] for chosen in drawn]
    return sources, _greedy(reference, sources, tokenizers)


def _greedy(engine: Engine, sources: list[list[int]], tokenizers: Tokenizers) -> list[list[int]]:
    """One at a time if there is a shortlist, which is that of a batch."""
    batches = [sources] if engine.shortlist is None else [[source] for source in sources]
    found = [row for batch in batches for row in engine.search(Request(batch, _GREEDY))]
    return [[*best.tokens, tokenizers.target.eos] for [best] in found]
