"""From a run directory to a translator, or from several runs to one that asks all of their models."""

from collections.abc import Sequence
from pathlib import Path

from qkv.decoding.engines.contract import Opening
from qkv.decoding.engines.registry import ENGINES
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.ensemble import Ensemble
from qkv.decoding.shortlist import open_shortlist
from qkv.devices import pick_device
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import load_model
from qkv.run.directory import Run
from qkv.text.tokenizer import Tokenizers
from qkv.translator import Translator


def load(
    run: str | Path | Sequence[str | Path],
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    engine: str | None = None,
    precision: str | None = None,
    shortlist: int | None = None,
) -> Translator:
    """A translator from a run directory, with the run's own decoding options.

    Args:
        run: the run directory; or several, an ensemble, which searches with the mean of their models' log-probabilities
            (`qkv.decoding.ensemble`) and the options of the first.
        checkpoint: the run's best by default.
        device: auto, cpu, cuda or cuda:N.
        engine: what searches and scores, in place of `decoding.engine`: auto, torch or ctranslate2. Of auto's choice
            `translator.engine.note` tells. An ensemble has torch alone.
        precision: what it computes in, in place of `decoding.precision`: float32, bf16, fp16 or int8.
        shortlist: target tokens looked at for each source token, in place of `decoding.shortlist`; not for an ensemble.

    Raises:
        UserError: if it is no run, or has no such checkpoint or one that does not fit, or the device does not
            exist here, or the engine cannot run the model, or not in this precision; or if several runs do not share
            their vocabularies.
    """
    runs = [Run.open(each) for each in ([run] if isinstance(run, str | Path) else run)]
    if not runs:
        raise UserError("there is no run to load: name one or more")
    opened, decoding = runs[0], runs[0].config.decoding
    tokenizers, precision = opened.tokenizers(), precision or decoding.precision
    paths = [each.find_checkpoint(checkpoint) for each in runs]
    for other in runs[1:]:
        _check_vocabularies(other, tokenizers)
    models = [_model(each, path, tokenizers, device) for each, path in zip(runs, paths, strict=True)]
    options, batch_tokens = decoding.search_options(), decoding.batch_tokens
    if len(runs) > 1:
        for asked, what in ((engine not in (None, "auto", "torch"), f"engine {engine}"), (shortlist, "shortlist")):
            if asked:
                raise UserError(f"an ensemble of runs has no {what}: leave it out")
        ensemble = Ensemble(models).eval()
        together = TorchEngine(ensemble, tokenizers, precision=precision)
        return Translator(ensemble, tokenizers, options=options, batch_tokens=batch_tokens, engine=together)
    narrow, count = None, decoding.shortlist if shortlist is None else shortlist
    if count is not None:
        narrow = open_shortlist(opened.shortlist_path(count), opened.encoded_path("train"), tokenizers, count)
    checkpoints = frozenset(each.name for each in opened.checkpoints_path.glob("*"))
    opening = Opening(models[0], tokenizers, precision, narrow, opened.path / "engines", paths[0].name, checkpoints)
    made = ENGINES.find(decoding.engine if engine is None else engine).open(opening)
    return Translator(models[0], tokenizers, options=options, batch_tokens=batch_tokens, engine=made)


def _check_vocabularies(run: Run, tokenizers: Tokenizers) -> None:
    """Refuse a run whose ids mean other tokens."""
    own = run.tokenizers()
    for ours, theirs, side in ((tokenizers.source, own.source, "source"), (tokenizers.target, own.target, "target")):
        if ours.to_bytes() != theirs.to_bytes():
            raise UserError(
                f"{run.path}: its {side} vocabulary is another than the first run's; an ensemble needs one for all: "
                "train them on the same pairs with the same tokenizer settings"
            )


def _model(run: Run, path: Path, tokenizers: Tokenizers, device: str) -> Seq2Seq:
    """A run's model, in evaluation mode where it is to compute."""
    model = load_model(path, run.config.model.architecture).to(pick_device(device))
    outputs, tokens = model.output.out_features, tokenizers.target.vocab_size
    if outputs != tokens:
        raise UserError(f"{path}: of another shape: it has {outputs:,} target tokens, this run has {tokens:,}")
    return model.eval()
