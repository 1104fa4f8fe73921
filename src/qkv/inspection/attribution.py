"""Which source tokens mattered for each target token: by gradients and by occlusion, as attention is no explanation.

Attention shows where a layer looks, not what would change the output (Jain and Wallace 2019). These methods ask the
whole model: what happens to a target token's log-probability if a source token's vector changes?
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.decoding.scoring import log_probabilities_of
from qkv.errors import UserError
from qkv.inspection.forced import ModelOrRun, as_translator, led_along
from qkv.nn.seq2seq import Seq2Seq
from qkv.pages.escaping import in_html
from qkv.pages.heat_maps import HeatMap, fragment, grid
from qkv.text.batches import forced_batch
from qkv.translator import Translator

METHODS = ("gradient", "integrated", "occlusion")

_ROWS_AT_ONCE = 16  # bounds the logits held in memory: rows × target × vocabulary
_FEWEST_POINTS, _MOST_POINTS = 32, 512  # of the integral
_CLOSE = 0.05  # the gap that is no cause for more points, as a share of the largest sum


@dataclass(frozen=True)
class Attribution:
    """How much each source token mattered for each target token. In a notebook it draws itself.

    Attributes:
        method: gradient, integrated or occlusion.
        source_tokens: pieces of the source, end of sentence included.
        target_tokens: pieces that were predicted.
        scores: (target, source), in natural log-probability: above zero if the source token spoke for the target
            token, below if against it.
        gap: of integrated gradients, by how much the scores of a target token fail to add up, at worst, in nats; None
            of the others, which do not add up to anything.
    """

    method: str
    source_tokens: list[str]
    target_tokens: list[str]
    scores: np.ndarray = field(repr=False)
    gap: float | None = None

    def _repr_html_(self) -> str:
        largest = float(np.abs(self.scores).max()) or 1.0
        legend = f"{self.method}: blue for, orange against; the fullest colour is {largest:.3g} nats"
        if self.gap is not None:
            legend += f"; rows add up to what the source gains, within {self.gap:.2g} nats"
        scaled = HeatMap(self.method, self.scores / largest, self.target_tokens, self.source_tokens)
        return fragment([f"<p>{in_html(legend)}</p>", grid([scaled])])


def attribute(
    model_or_run: ModelOrRun,
    source: str,
    target: str | None = None,
    *,
    method: str = "gradient",
    beam: int | None = None,
) -> Attribution:
    """Which source tokens mattered for each token of the translation, or of a given target.

    - gradient: gradient × input (Denil et al. 2014): the slope of the target token's log-probability along the source
      token's vector, times that vector. One pass; says what a small change would do.
    - integrated: integrated gradients (Sundararajan et al. 2017): that slope averaged over the way from vectors of zero
      to those that are read, times the vector. The scores of a target token add up to what its log-probability gains
      by all source tokens together (completeness). It takes 32 points of that way, and twice as many up to 512 while
      the sums are more than a twentieth off; `Attribution.gap` says how far off they are in the end.
    - occlusion (Zeiler and Fergus 2014; Li et al. 2016): how much log-probability is lost if the vector is zero, its
      position kept. One pass per source token; says what its absence does.

    Were the log-probability linear in the vectors, all three would be the same.

    Other arguments, and errors, are as those of `qkv.attention_maps`.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    translator = as_translator(model_or_run)
    source_ids, target_ids, _ = led_along(translator, source, target, beam=beam)
    pair = _pair(translator, source_ids, target_ids)
    scores = scores_of(pair, method).numpy()
    gap = None
    if method == "integrated":
        gap = float(np.abs(scores.sum(axis=1) - pair.gained().cpu().numpy()).max())
    pieces = (translator.tokenizers.source.pieces(source_ids), translator.tokenizers.target.pieces(target_ids))
    return Attribution(method, *pieces, scores, gap)


def attribution_scores(translator: Translator, source: list[int], target: list[int], method: str) -> np.ndarray:
    """The (target, source) scores of a pair of ids; see `attribute`."""
    return scores_of(_pair(translator, source, target), method).numpy()


@dataclass(frozen=True)
class ForcedPair:
    """A model that keeps the contract, in evaluation mode, and one pair that it is led along.

    Attributes:
        model: whose source's token vectors are changed.
        source: ids that the model reads.
        target_input: ids that its decoder reads.
        target_output: ids that it is to predict, one for each that it reads.
    """

    model: Seq2Seq
    source: Int[Tensor, "1 source"]
    target_input: Int[Tensor, "1 target"]
    target_output: Int[Tensor, "1 target"]

    def predicted(self, change: Callable[[Tensor], Tensor], rows: int = 1) -> Float[Tensor, "rows target"]:
        """Log-probabilities with the source's token vectors, so many copies of them, changed; positions stay."""
        source, target_input, target_output = (
            ids.expand(rows, -1) for ids in (self.source, self.target_input, self.target_output)
        )
        tokens = cast(Any, self.model).source_embedding.tokens  # every architecture embeds in the same way
        with tokens.register_forward_hook(lambda _module, _ids, embedded: change(embedded)):
            memory = self.model.encode(source)
        return log_probabilities_of(self.model.project(self.model.decode(target_input, memory)), target_output)

    @torch.inference_mode()
    def gained(self) -> Float[Tensor, " target"]:
        """By how much the source's vectors raise each target token's log-probability, against vectors of zero."""
        return (self.predicted(lambda embedded: embedded) - self.predicted(torch.zeros_like))[0]


def _pair(translator: Translator, source: list[int], target: list[int]) -> ForcedPair:
    with torch.inference_mode(False):  # tensors that have gradients, whatever the caller does
        batch = forced_batch([source], [target], translator.tokenizers).to(translator.device)
    return ForcedPair(translator.model, batch.source, batch.target_input, batch.target_output)


def scores_of(pair: ForcedPair, method: str) -> Float[Tensor, "target source"]:
    """The scores of one pair, in float64 on the CPU, by one of METHODS; see `attribute`."""
    if method == "occlusion":
        found = _occlusion(pair)
    else:
        # cuDNN's recurrences have no gradient in evaluation mode.
        with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            found = _slopes(pair, torch.ones(1), torch.ones(1)) if method == "gradient" else _integrated(pair)
    return found.to(torch.float64).cpu()


def _integrated(pair: ForcedPair) -> Tensor:
    """By the midpoint rule in u, where the vectors are scaled by u², so that most points lie near zero."""
    gained = pair.gained()
    points = _FEWEST_POINTS
    while True:
        parts = ((torch.arange(points) + 0.5) / points).split(_ROWS_AT_ONCE)
        found = sum((_slopes(pair, part**2, 2 * part / points) for part in parts), start=torch.tensor(0.0))
        gap = (found.sum(dim=1) - gained).abs().max()
        if gap <= _CLOSE * gained.abs().max() or points >= _MOST_POINTS:
            return found
        points *= 2


def _slopes(pair: ForcedPair, scales: Tensor, weights: Tensor) -> Tensor:
    """(target, source): slopes where the vectors are scaled by each of these, times the vectors; a weighted sum."""
    vectors: list[Tensor] = []
    scaled: list[Tensor] = []

    def watched(embedded: Tensor) -> Tensor:
        vectors.append(embedded.detach())
        scaled.append((vectors[0] * scales.to(embedded)[:, None, None]).requires_grad_())
        return scaled[0]

    found = pair.predicted(watched, len(scales)).sum(dim=0)
    slopes = (torch.autograd.grad(one, scaled[0], retain_graph=True)[0] for one in found)
    along = torch.stack([(slope * vectors[0]).sum(dim=-1) for slope in slopes])  # (target, row, source)
    return torch.einsum("trs,r->ts", along, weights.to(along))


@torch.inference_mode()
def _occlusion(pair: ForcedPair) -> Tensor:
    whole = pair.predicted(lambda embedded: embedded)
    lost = []
    positions = torch.arange(pair.source.shape[1], device=pair.source.device)
    for hidden in positions.split(_ROWS_AT_ONCE):
        kept = (positions != hidden[:, None])[..., None]  # row i loses its vector at position hidden[i]
        lost.append(whole - pair.predicted(lambda embedded: embedded * kept, len(hidden)))  # noqa: B023
    return torch.cat(lost).T
