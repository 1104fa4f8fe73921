"""A run's model for CTranslate2: exported on first use, checked against torch, never trusted blindly."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qkv.decoding.engines.agreement import check
from qkv.decoding.engines.contract import EngineKind, Opening
from qkv.decoding.engines.ctranslate2_engine import COMPUTE_TYPES, CTranslate2Engine, compute_type
from qkv.decoding.engines.ctranslate2_model import (
    TOLERANCES,
    positions_of,
    specification,
    supported_config,
    vocabulary,
    write_shortlist,
)
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.shortlist import Shortlist
from qkv.errors import UserError
from qkv.files import digest, new_directory, remove_directory
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.tokenizer import Tokenizers

_FORMAT = 1
_STAMP = "engine.json"
_TEMPORARY: list[tempfile.TemporaryDirectory[str]] = []


def open_engine(opening: Opening, *, temporary: bool = True) -> CTranslate2Engine:
    """The model in CTranslate2: from the directory if it lies there whole and of these weights, else exported anew.

    What is exported is checked against the model before it is kept.

    Args:
        temporary: whether to export to a temporary place, each time, if the directory takes no files.

    Raises:
        UserError: if CTranslate2 cannot run this model, or not in this precision here, or its outputs differ; or if the
            directory takes no files and `temporary` is false.
    """
    model, tokenizers, precision, shortlist = opening.model, opening.tokenizers, opening.precision, opening.shortlist
    longest, device = positions_of(supported_config(model)), next(model.parameters()).device
    stored = compute_type(precision, device)

    def load(path: Path) -> CTranslate2Engine:
        return CTranslate2Engine(
            path, tokenizers, longest=longest, precision=precision, device=device, shortlist=shortlist
        )

    def make(directory: Path) -> None:
        specification(model, tokenizers, stored).save(str(directory))
        if shortlist is not None:
            write_shortlist(shortlist, tokenizers, directory)
        check(
            load(directory),
            TorchEngine(model, tokenizers, shortlist=shortlist),
            tokenizers,
            TOLERANCES[stored],
            name="CTranslate2",
            longest=model.longest,
            outputs=precision == "float32",
        )
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
    kept = tuple(f"ctranslate2-{name}-" for name in opening.checkpoints | {opening.checkpoint})
    for other in opening.directory.glob("ctranslate2-*"):
        if not other.name.startswith(kept):  # its checkpoint is gone
            remove_directory(other)
    return load(path)


CTRANSLATE2 = EngineKind(tuple(COMPUTE_TYPES), open_engine)


def fingerprint_of(model: Seq2Seq, tokenizers: Tokenizers, shortlist: Shortlist | None = None) -> str:
    """A digest of all that an export depends on: options, weights, vocabularies and the shortlist."""
    summed = hashlib.blake2b(digest_size=16)
    names = [vocabulary(tokenizers.source), vocabulary(tokenizers.target)]
    summed.update(json.dumps([asdict(supported_config(model)), names], sort_keys=True).encode())
    tensors: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), (name, tensor))  # a tied matrix once, under its first name
    lists = [] if shortlist is None else [("candidates", shortlist.candidates), ("always", shortlist.always)]
    for name, tensor in [*tensors.values(), *lists]:
        summed.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        summed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return summed.hexdigest()


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
    return {file.name: digest(file, "blake2b") for file in sorted(path.iterdir()) if file.name != _STAMP}
