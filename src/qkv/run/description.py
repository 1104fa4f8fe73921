"""What there is to know about a run, for a person."""

from collections.abc import Iterator

from qkv.run.checkpoint import load_model, read_description
from qkv.run.directory import Run
from qkv.text.encoded import EncodedCorpus


def describe(run: Run) -> str:
    """Tokenizers, model, progress and checkpoints, one a line; `UserError` if a part of the run is damaged."""
    return "\n".join(f"{name:13}{text}" for name, text in _rows(run))


def books(run: Run) -> Iterator[tuple[str, str]]:
    """What became of the pairs that were prepared for training and for validation, as far as they lie here."""
    for name, title in (("train", "training"), ("validation", "validation")):
        for path in sorted(run.encoded_path(name).parent.glob(f"{name}*/meta.json"))[-1:]:
            yield title, "; ".join(EncodedCorpus.open(path.parent).balance.rows())


def _rows(run: Run) -> Iterator[tuple[str, str]]:
    tokenizers = run.tokenizers()
    sides = {"source": tokenizers.source, "target": tokenizers.target}
    if tokenizers.joint:
        sides = {"both": tokenizers.source}
    yield "run", str(run.path)
    yield "tokenizer", "; ".join(f"{name}: {side.kind}, {side.vocab_size:,} tokens" for name, side in sides.items())
    yield from books(run)
    if not run.checkpoints():
        yield "model", f"{run.config.model.architecture}, no checkpoint yet"
        return
    used, newest = run.find_checkpoint(), run.checkpoints()[-1]
    description, state = read_description(used), read_description(newest)["training"]
    parameters = sum(parameter.numel() for parameter in load_model(used).parameters())
    yield "model", f"{description['architecture']}, {parameters:,} parameters"
    yield "", ", ".join(f"{name} {value}" for name, value in description["model"].items())
    yield (
        "trained",
        f"{state['step']:,} steps, {state['epoch']:,} epochs, {state['target_tokens']:,} target tokens, "
        f"{state['seconds'] / 60:.1f} minutes",
    )
    if state["best"] is not None:
        metric = (state.get("judged_by") or {}).get("metric", run.config.validation.metric)
        yield "best", f"{metric} {state['best']:.4g} at step {state['best_step']:,}"
    yield "checkpoints", ", ".join(path.name for path in run.checkpoints())
    yield "in use", used.name
