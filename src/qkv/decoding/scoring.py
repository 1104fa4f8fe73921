"""Forced scoring: how probable a model finds outputs that are given."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch

_TOKENS_AT_ONCE = 1024  # bounds the logits held in memory: tokens × vocabulary


@dataclass(frozen=True)
class TargetScore:
    """How probable a model finds a given target.

    Attributes:
        tokens: the target's pieces, its end of sentence included.
        token_log_probabilities: of each of these, given the source and the pieces before it.
    """

    tokens: list[str]
    token_log_probabilities: list[float]

    @property
    def log_probability(self) -> float:
        """Natural log-probability of the whole target."""
        return math.fsum(self.token_log_probabilities)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability per token: 1 if the model was certain of each."""
        return math.exp(-self.log_probability / len(self.tokens))


@torch.inference_mode()
def score_targets(model: Seq2Seq, batch: Batch) -> Float[Tensor, "batch target"]:
    """Natural log-probability of each target token, given the source and the target tokens before it.

    The model is in eval mode. There are zeros on padding: a row's sum is the log-probability of its target.
    """
    hidden = model.decode(batch.target_input, model.encode(batch.source, batch.source_mask))
    target = batch.target_output
    real = torch.ones_like(target, dtype=torch.bool) if batch.target_mask is None else batch.target_mask
    parts = zip(hidden[real].split(_TOKENS_AT_ONCE), target[real].split(_TOKENS_AT_ONCE), strict=True)
    scores = torch.cat([log_probabilities_of(model.project(some), wanted) for some, wanted in parts])
    return scores.new_zeros(target.shape).masked_scatter(real, scores)


@torch.inference_mode()
def next_tokens(
    model: Seq2Seq, hidden: Float[Tensor, "target d_model"], count: int
) -> tuple[Float[Tensor, "target count"], Int[Tensor, "target count"]]:
    """The most probable tokens at each position of one target: (log-probabilities, ids), best first.

    `hidden` is what `decode`, in eval mode, made of the target. There are fewer than `count` in a smaller vocabulary.
    """
    projected = map(model.project, hidden.split(_TOKENS_AT_ONCE))
    found = [log_softmax(logits).topk(min(count, logits.shape[-1])) for logits in projected]
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def log_softmax(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Log-probabilities, in float32 at least, whatever the model computes in."""
    return logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def log_probabilities_of(logits: Float[Tensor, "*rows vocab"], wanted: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """The log-probability of the wanted token of each row."""
    return log_softmax(logits).gather(-1, wanted[..., None]).squeeze(-1)
