"""What may spoil a training and is no mistake for certain: a line each, before it begins or when it shows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from qkv.errors import UserError
from qkv.metrics import METRICS
from qkv.run.preparation import Prepared, pair_files
from qkv.text.batches import BatchPlan
from qkv.text.corpus import read_pairs
from qkv.text.encoded import EncodedCorpus

PARAMETERS_PER_PAIR = 10_000
"""More than that for each training pair are said to be far too many. The paper's base model has 14 for each of WMT 14's
pairs, the recipes here have from 5 to 150, the toys of the tests some hundreds or thousands."""
REPEATED = 0.01
"""From this share on it is said that validation pairs repeat training pairs: short sentences do so by nature."""
STANDING = 3
"""So many validations with one value, and it is said that the metric stands still."""


def before_training(prepared: Prepared, corpus: EncodedCorpus, parameters: int, *, is_new: bool) -> Iterator[str]:
    """What there is to say of a training with this corpus, a new one or one that goes on."""
    config = prepared.config
    steps, warmup = _steps(prepared, corpus), config.training.warmup_steps
    if steps is not None and config.training.budget is None and warmup >= steps:
        yield (
            f"training.warmup_steps is {warmup:,}, but training ends at step {steps:,}: the learning rate is still "
            f"rising then; set warmup_steps to {max(1, steps // 10):,}, say"
        )
    if config.data.validation is None:
        said = {"metric": config.validation.metric != "loss", "patience": config.validation.patience is not None}
        if idle := [f"validation.{name}" for name, is_said in said.items() if is_said]:
            yield f"{' and '.join(idle)}: of no effect, as there are no validation pairs; say data.validation=FILE"
    if not is_new:
        return
    if parameters > PARAMETERS_PER_PAIR * len(corpus):
        yield (
            f"the model has {parameters:,} parameters for {len(corpus):,} training pairs, and will know them by heart; "
            "take a smaller one (model.preset=tiny), or more pairs"
        )
    with suppress(UserError):  # pairs that are gone are not missed: they have been encoded
        yield from _repeated(prepared)


def not_moving(validations: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """What there is to say when the metric of the last validations has not moved: once, unless it is perfect."""
    values = [record.get(metric) for record in validations]
    last = values[-1] if values else None
    stands = len(values) >= STANDING and all(value == last for value in values[-STANDING:])
    if metric == "loss" or last is None or not stands or (len(values) > STANDING and values[-STANDING - 1] == last):
        return None
    if last >= 100 if METRICS[metric].higher_is_better else last <= 0:
        return None
    return (
        f"validation.metric={metric} has been {last:.2f} at {STANDING} validations: while it stands, the lower loss "
        f"decides which checkpoint is best; validation.metric={METRICS[metric].finer} may tell more"
    )


def _steps(prepared: Prepared, corpus: EncodedCorpus) -> int | None:
    """How many steps there will be, as far as that is known."""
    settings = prepared.config.training
    if settings.epochs is None:
        return settings.steps
    lengths = corpus.source_lengths, corpus.target_lengths
    batches = len(BatchPlan(*lengths, settings.batch_tokens, seed=prepared.config.seed, epoch=0))
    steps = settings.epochs * -(-batches // settings.accumulate)
    return steps if settings.steps is None else min(steps, settings.steps)


def _repeated(prepared: Prepared) -> Iterator[str]:
    if prepared.config.data.validation is None:
        return
    held_out = list(read_pairs(pair_files(prepared.config, "validation")))
    places: dict[int, list[int]] = {}
    for number, pair in enumerate(held_out, start=1):
        places.setdefault(hash(pair), []).append(number)
    training = map(hash, read_pairs(pair_files(prepared.config, "train")))
    seen = {key for key in training if key in places}
    repeated = sorted(number for key in seen for number in places[key])
    if len(repeated) >= REPEATED * len(held_out):
        yield (
            f"{len(repeated):,} of {len(held_out):,} validation pairs are training pairs too, the first is pair "
            f"{repeated[0]:,}: what is learnt by heart is taken for progress; leave them out of one of the two"
        )
