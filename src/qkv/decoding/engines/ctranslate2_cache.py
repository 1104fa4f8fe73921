"""Where a run keeps its model for CTranslate2: exported on first use, checked against torch, never trusted blindly."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.decoding.engines.ctranslate2_model import (
    Quantization,
    positions_of,
    specification,
    supported_config,
    vocabulary,
)
from qkv.decoding.hypothesis import SearchOptions
from qkv.decoding.scoring import score_targets
from qkv.decoding.sentences import search_all
from qkv.errors import UserError
from qkv.files import new_directory, remove_directory
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import weights_of
from qkv.run.directory import Run
from qkv.text.batches import pad
from qkv.text.tokenizer import Tokenizers

_FORMAT = 1
_STAMP = "engine.json"

_TYPES: dict[str, tuple[Quantization, str]] = {
    "float32": ("none", "float32"),
    "bf16": ("bfloat16", "bfloat16"),
    "fp16": ("float16", "float16"),
    "int8": ("int8", "int8"),
}
"""For each precision of ours, how CTranslate2 is to store weights and what it is to compute in."""

_TOLERANCE = {"float32": 0.001, "bf16": 0.3, "fp16": 0.03, "int8": 0.5}
"""How far a token's log-probability may be from torch's, in nats; see `check_scores`."""

_TEMPORARY: list[tempfile.TemporaryDirectory[str]] = []

_GREEDY = SearchOptions(beam=1, max_length_ratio=1.0, max_length_extra=8)


def open_engine(
    run: Run,
    checkpoint: Path,
    model: Seq2Seq,
    tokenizers: Tokenizers,
    *,
    precision: str = "float32",
    device: torch.device | str = "cpu",
) -> CTranslate2Engine:
    """The model in CTranslate2: from RUN/engines if it lies there whole and of these weights, else exported anew.

    What is exported is checked against the model before it is kept. If the run's directory takes no files, the export
    is made in a temporary place, each time.

    Args:
        run: the run.
        checkpoint: which the model is from; names the directory.
        model: in evaluation mode.
        tokenizers: of both sides.
        precision: float32, bf16, fp16 or int8.
        device: where to compute.

    Raises:
        UserError: if CTranslate2 cannot run this model, or not in this precision here, or its outputs differ.
    """
    if precision not in _TYPES:
        raise UserError(f"engine ctranslate2 has no precision {precision!r}; it has {', '.join(_TYPES)}")
    longest = positions_of(supported_config(model))
    quantization, compute_type = _TYPES[precision]

    def load(path: Path) -> CTranslate2Engine:
        return CTranslate2Engine(path, tokenizers, longest=longest, compute_type=compute_type, device=device)

    engines = run.path / "engines"
    path = engines / f"ctranslate2-{checkpoint.name}-{precision}"
    fingerprint = fingerprint_of(model, tokenizers)
    if is_intact(path, fingerprint):
        return load(path)

    def make(directory: Path) -> None:
        specification(model, tokenizers, quantization).save(str(directory))
        engine = load(directory)
        check_scores(engine, model, tokenizers, _TOLERANCE[precision])
        if precision == "float32":
            check_search(engine, model, tokenizers, _TOLERANCE[precision])
        stamp = {"format": _FORMAT, "fingerprint": fingerprint, "files": _digests(directory)}
        (directory / _STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")

    try:
        with new_directory(path) as new:
            make(new)
    except OSError:
        temporary = tempfile.TemporaryDirectory(prefix="qkv-")  # goes with the process
        _TEMPORARY.append(temporary)
        make(Path(temporary.name))
        return load(Path(temporary.name))
    _remove_orphans(engines, {checkpoint.name, *(each.name for each in run.checkpoints_path.glob("*"))})
    return load(path)


def fingerprint_of(model: Seq2Seq, tokenizers: Tokenizers) -> str:
    """A digest of all that an export depends on: options, weights and vocabularies."""
    digest = hashlib.blake2b(digest_size=16)
    names = [vocabulary(tokenizers.source), vocabulary(tokenizers.target)]
    digest.update(json.dumps([asdict(supported_config(model)), names], sort_keys=True).encode())
    for name, tensor in weights_of(model).items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
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


def _remove_orphans(engines: Path, checkpoints: set[str]) -> None:
    """Models whose checkpoint is gone."""
    for path in engines.glob("ctranslate2-*"):
        if path.name.removeprefix("ctranslate2-").rpartition("-")[0] not in checkpoints:
            remove_directory(path)


def check_scores(engine: CTranslate2Engine, model: Seq2Seq, tokenizers: Tokenizers, tolerance: float) -> None:
    """Refuse an engine that finds other probabilities than the model, on a few made-up sources.

    Args:
        engine: scores what the model finds greedily.
        model: in evaluation mode.
        tokenizers: of both sides.
        tolerance: mean distance allowed between log-probabilities of a token, in nats, beside a hundredth of them.

    Raises:
        UserError: if they differ.
    """
    sources, targets = _sources_and_outputs(engine, model, tokenizers)
    ours, theirs = _score(model, sources, targets, tokenizers), engine.score(sources, targets)
    distances = [abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True)]
    allowed = [tolerance + 0.01 * abs(value) for row in ours for value in row]
    if not sum(distances) <= sum(allowed):  # not a number is refused, too
        mean = sum(distances) / len(distances)
        raise UserError(f"CTranslate2 disagrees with torch on this model ({mean:.3g} nats a token): use engine torch")


def check_search(engine: CTranslate2Engine, model: Seq2Seq, tokenizers: Tokenizers, tolerance: float) -> None:
    """Refuse an engine whose greedy search takes other tokens than the model's, on the same sources.

    Args:
        engine: searches.
        model: in evaluation mode.
        tokenizers: of both sides.
        tolerance: where two outputs part, their tokens must be as probable as each other: so close, in nats, beside a
            hundredth of them.

    Raises:
        UserError: if they differ.
    """
    sources, targets = _sources_and_outputs(engine, model, tokenizers)
    outputs = [[*found.tokens, tokenizers.target.eos] for [found] in engine.search(sources, _GREEDY)]
    ours, theirs = (_score(model, sources, each, tokenizers) for each in (targets, outputs))
    for index, (target, output) in enumerate(zip(targets, outputs, strict=True)):
        parting = next((i for i, (a, b) in enumerate(zip(target, output, strict=False)) if a != b), None)
        if parting is not None:
            best, other = ours[index][parting], theirs[index][parting]
            if best - other > tolerance + 0.01 * abs(best):
                raise UserError("CTranslate2's search disagrees with torch's on this model: use engine torch")


def _sources_and_outputs(
    engine: CTranslate2Engine, model: Seq2Seq, tokenizers: Tokenizers
) -> tuple[list[list[int]], list[list[int]]]:
    """A few sequences, the same each time, and what the model makes of them; each with its end of sentence."""
    tokenizer, generator = tokenizers.source, torch.Generator().manual_seed(0)
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk}
    ordinary = torch.tensor([token for token in range(tokenizer.vocab_size) if token not in special])
    lengths = [min(length, engine.longest - 1) for length in (1, 2, 5, 9, 14, 20)]
    drawn = [torch.randint(len(ordinary), (length,), generator=generator) for length in lengths]
    sources = [[*ordinary[chosen].tolist(), tokenizer.eos] for chosen in drawn]
    device = next(model.parameters()).device
    found = search_all(model, sources, tokenizers, _GREEDY, device=device)
    return sources, [[*hypothesis.tokens, tokenizers.target.eos] for [hypothesis] in found]


def _score(
    model: Seq2Seq, sources: list[list[int]], targets: list[list[int]], tokenizers: Tokenizers
) -> list[list[float]]:
    device, target = next(model.parameters()).device, tokenizers.target
    source, source_mask = pad(sources, tokenizers.source.pad)
    before, _ = pad([[target.bos, *tokens[:-1]] for tokens in targets], target.pad)
    after, mask = pad(targets, target.pad)
    masks = [None if each is None else each.to(device) for each in (source_mask, mask)]
    scores = score_targets(model, source.to(device), masks[0], before.to(device), after.to(device), masks[1])
    return [row[: len(tokens)] for row, tokens in zip(scores.tolist(), targets, strict=True)]
