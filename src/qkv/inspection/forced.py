"""A forced pass: a model is led along an output, and what it attends to and how probable it finds that is recorded.

The output is the one that `translate` gives, found by the translator's own engine, or one that is given. What is led
along it is the model itself, as it was trained, whatever the engine has made of it: another precision, a shortlist,
another program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qkv.decoding.hypothesis import Hypothesis, distinct
from qkv.decoding.scoring import log_probabilities_of, next_tokens
from qkv.decoding.sentences import length_sorted_batches
from qkv.errors import UserError
from qkv.loading import load
from qkv.nn.seq2seq import AttentionRecord
from qkv.run.directory import Run
from qkv.text.batches import forced_batch
from qkv.translator import Translation, Translator

KINDS = ("encoder", "decoder", "cross")


ModelOrRun = Translator | Run | str | Path
"""A translator, a run or its directory."""


def as_translator(model_or_run: ModelOrRun) -> Translator:
    """A translator as it is; one for a run."""
    if isinstance(model_or_run, Translator):
        return model_or_run
    return load(model_or_run.path if isinstance(model_or_run, Run) else model_or_run)


def led_along(
    translator: Translator, source: str, target: str | None, *, beam: int | None = None
) -> tuple[list[int], list[int], list[Translation]]:
    """Ids of the source, and of a given target or else of the best that is found; and all texts that are found.

    Raises:
        UserError: if there is nothing to translate, or a text is too long for the model.
    """
    (source_ids,) = translator.encode([source], "source")
    if target is not None:
        (target_ids,) = translator.encode([target], "target")
        return source_ids, target_ids, []
    if not source.strip():
        raise UserError("there is nothing to translate: the source is empty")
    width = translator.options.beam if beam is None else beam
    (found,) = translator.search([source_ids], translator.search_options(width, None, n_best=max(1, width)))
    outputs = [translator.translation(one) for one in found]
    listed = distinct(found, [one.text for one in outputs], len(found))
    return source_ids, with_end(translator, found[0]), [outputs[index] for index in listed]


def with_end(translator: Translator, hypothesis: Hypothesis) -> list[int]:
    """The ids of an output, its end of sentence among them if it has one."""
    return [*hypothesis.tokens, *[translator.tokenizers.target.eos] * hypothesis.finished]


@dataclass(frozen=True)
class Recorded:
    """What a forced pass of one pair has seen.

    Attributes:
        attention: see `Inspection.attention`.
        log_probabilities: natural, of each target token.
        candidates: at each target token, the most probable ones as (id, log-probability), best first.
    """

    attention: dict[str, np.ndarray]
    log_probabilities: list[float]
    candidates: list[list[tuple[int, float]]]


@torch.inference_mode()
def record_pairs(
    translator: Translator,
    pairs: Sequence[tuple[list[int], list[int]]],
    *,
    kinds: Sequence[str] = KINDS,
    candidates: int = 0,
) -> list[Recorded]:
    """Lead a model along pairs, in batches, and record the weights, without those of padding.

    Args:
        translator: holds the model.
        pairs: ids of source and target, as the model is to read and to predict them.
        kinds: of attention that are wanted.
        candidates: how many are wanted at each target token.
    """
    results: dict[int, Recorded] = {}
    lengths = [max(len(source), len(target)) for source, target in pairs]
    for indices in length_sorted_batches(lengths, translator.batch_tokens):
        batch = _record_batch(translator, [pairs[index] for index in indices], kinds, candidates)
        results.update(zip(indices, batch, strict=True))
    return [results[index] for index in range(len(pairs))]


def _record_batch(
    translator: Translator, pairs: Sequence[tuple[list[int], list[int]]], kinds: Sequence[str], candidates: int
) -> list[Recorded]:
    model, record = translator.model, AttentionRecord()
    sources, targets = zip(*pairs, strict=True)
    batch = forced_batch(sources, targets, translator.tokenizers).to(translator.device)
    memory = model.encode(batch.source, batch.source_mask, record if "encoder" in kinds else None)
    hidden = model.decode(batch.target_input, memory, record=record)
    recorded = []
    for row, (source, target) in enumerate(pairs):
        # One sentence at a time, as logits of a whole batch may not fit into memory.
        own, wanted = hidden[row, : len(target)], batch.target_output[row, : len(target)]
        best: list[list[tuple[int, float]]] = []
        if candidates:
            values, tokens = next_tokens(model, own, candidates)
            best = [list(zip(*one, strict=True)) for one in zip(tokens.tolist(), values.tolist(), strict=True)]
        weights = _weights(record, kinds, row, source_length=len(source), target_length=len(target))
        recorded.append(Recorded(weights, log_probabilities_of(model.project(own), wanted).tolist(), best))
    return recorded


def _weights(
    record: AttentionRecord, kinds: Sequence[str], row: int, *, source_length: int, target_length: int
) -> dict[str, np.ndarray]:
    """(layer, head, row, column) of each kind that there is, for one sentence of a batch."""
    found = {}
    for kind in kinds:
        height = source_length if kind == "encoder" else target_length
        width = target_length if kind == "decoder" else source_length
        if layers := getattr(record, kind):
            weights = torch.stack([layer[row, :, :height, :width] for layer in layers])
            found[kind] = weights.to(torch.promote_types(weights.dtype, torch.float32)).cpu().numpy()
    return found
