"""A run's model handed to another program: written, opened as that program does, compared with our own, then kept."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from qkv import __version__
from qkv.decoding.engines.agreement import Agreement, check
from qkv.errors import UserError
from qkv.files import new_directory
from qkv.interchange import EXPORTS
from qkv.loading import load
from qkv.run.directory import Run

_STAMP = "export.json"


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        path: the directory.
        checkpoint: which it is.
        agreement: of what was written with the model itself.
        usage: Python that translates a sentence with it.
    """

    path: Path
    checkpoint: str
    agreement: Agreement
    usage: str


def export(
    run: str | Path,
    target: str,
    *,
    output: str | Path | None = None,
    checkpoint: str | None = None,
    quantization: str | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a run's model for another program, and keep it if that program computes what the model does.

    Args:
        run: the run directory.
        target: the program, as `EXPORTS` names it.
        output: the new directory; RUN/exports/TARGET by default, with the quantization if one is said.
        checkpoint: the run's best by default.
        quantization: how to store the weights; float32 by default.
        overwrite: replace an older export of that name.

    Raises:
        UserError: if there is no such run, checkpoint or target; the program cannot express the model, or store it so;
            what it needs is not installed; its results differ from the model's; or the directory exists, or cannot
            be written.
    """
    opened, chosen = Run.open(run), EXPORTS.find(target)
    stored = quantization or next(iter(chosen.tolerances))
    if stored not in chosen.tolerances:
        raise UserError(f"{target} has no quantization {stored!r}; it has {', '.join(chosen.tolerances)}")
    path = opened.path / "exports" / "-".join(filter(None, (target, quantization))) if output is None else Path(output)
    if path.is_dir() and not (path / _STAMP).is_file() and any(path.iterdir()):
        raise UserError(f"{path}: exists already, and is no export: choose another --output")
    if path.exists() and not (overwrite and path.is_dir()):
        raise UserError(f"{path}: exists already; replace it with --overwrite, or choose another --output")
    translator = load(run, checkpoint=checkpoint, device="cpu", engine="torch", precision="float32")
    model, tokenizers = translator.model, translator.tokenizers
    try:
        chosen.refuse(model)
    except UserError as error:
        raise UserError(f"{run} cannot be exported: {error}") from None
    found = opened.find_checkpoint(checkpoint).name
    try:
        with new_directory(path) as new:
            chosen.write(model, tokenizers, new, stored)
            agreement = check(
                chosen.read(model, tokenizers, new, stored),
                translator.reference,
                tokenizers,
                chosen.tolerances[stored],
                name=chosen.title,
                longest=model.longest,
                outputs=stored == "float32",
            )
            stamp = {"qkv": __version__, "target": target, "checkpoint": found, "quantization": stored}
            (new / _STAMP).write_text(json.dumps(stamp | {"agreement": asdict(agreement)}, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    return Export(path, found, agreement, f"path = {str(path)!r}\n{chosen.usage}")
