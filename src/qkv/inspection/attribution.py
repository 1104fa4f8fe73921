"""Which source tokens mattered for each target token: by gradients and by occlusion, as attention is no explanation.

Attention shows where a layer looks, not what would change the output (Jain and Wallace 2019). These methods ask the
whole model: what happens to a target token's log-probability if a source token's vector changes?
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.decoding.scoring import log_probabilities_of
from qkv.errors import UserError
from qkv.inspection.forced import as_translator, led_along
from qkv.nn.seq2seq import Seq2Seq
from qkv.pages.escaping import in_html
from qkv.pages.heat_maps import HeatMap, fragment, grid
from qkv.run.directory import Run
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
    model_or_run: Translator | Run | str | Path,
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

    Args:
        model_or_run: a translator, a run or its directory.
        source: the text to be read.
        target: what is to be written; by default what the search finds.
        method: gradient, integrated or occlusion.
        beam: in place of the run's; 1 is greedy search.

    Raises:
        UserError: if the method is unknown, and as `qkv.attention_maps`.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    translator = as_translator(model_or_run)
    source_ids, target_ids, _ = led_along(translator, source, target, beam=beam)
    scores = attribution_scores(translator, source_ids, target_ids, method)
    gap = None
    if method == "integrated":
        gained = _gained(translator.model, *_pair(translator, source_ids, target_ids)).cpu().numpy()
        gap = float(np.abs(scores.sum(axis=1) - gained).max())
    pieces = (translator.tokenizers.source.pieces(source_ids), translator.tokenizers.target.pieces(target_ids))
    return Attribution(method, *pieces, scores, gap)


def attribution_scores(translator: Translator, source: list[int], target: list[int], method: str) -> np.ndarray:
    """The (target, source) scores of a pair of ids; see `attribute`."""
    found = scores_of_model(translator.model, *_pair(translator, source, target), method=method)
    return found.to(torch.float64).cpu().numpy()


def _pair(translator: Translator, source: list[int], target: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """What is read, what leads the decoder, and what it is to predict."""
    with torch.inference_mode(False):  # tensors that have gradients, whatever the caller does
        batch = forced_batch([source], [target], translator.tokenizers).to(translator.device)
    return batch.source, batch.target_input, batch.target_output


def scores_of_model(
    model: Seq2Seq,
    source: Int[Tensor, "1 source"],
    target_input: Int[Tensor, "1 target"],
    target_output: Int[Tensor, "1 target"],
    method: str,
) -> Float[Tensor, "target source"]:
    """The scores of one pair, for any model that keeps the contract; see `attribute`.

    Args:
        model: in evaluation mode.
        source: ids that the model reads.
        target_input: ids that its decoder reads.
        target_output: ids that it is to predict, one for each that it reads.
        method: one of METHODS.
    """
    if method == "occlusion":
        return _occlusion(model, source, target_input, target_output)
    compute = _gradient if method == "gradient" else _integrated
    # cuDNN's recurrences have no gradient in evaluation mode.
    with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        return compute(model, source, target_input, target_output)


def _gradient(model: Seq2Seq, source: Tensor, target_input: Tensor, target_output: Tensor) -> Tensor:
    return _slopes(model, source, target_input, target_output, torch.ones(1))


def _integrated(model: Seq2Seq, source: Tensor, target_input: Tensor, target_output: Tensor) -> Tensor:
    gained = _gained(model, source, target_input, target_output)
    points = _FEWEST_POINTS
    while True:
        found = _integral(model, source, target_input, target_output, points)
        gap = (found.sum(dim=1) - gained).abs().max()
        if gap <= _CLOSE * gained.abs().max() or points >= _MOST_POINTS:
            return found
        points *= 2


def _integral(model: Seq2Seq, source: Tensor, target_input: Tensor, target_output: Tensor, points: int) -> Tensor:
    """By the midpoint rule in u, where the vectors are scaled by u², so that most points lie near zero."""
    total = torch.zeros(target_output.shape[1], source.shape[1], device=source.device)
    for part in ((torch.arange(points) + 0.5) / points).split(_ROWS_AT_ONCE):
        one, two, three = (ids.expand(len(part), -1) for ids in (source, target_input, target_output))
        total = total + _slopes(model, one, two, three, part**2, weights=2 * part / points)
    return total


@torch.inference_mode()
def _gained(model: Seq2Seq, source: Tensor, target_input: Tensor, target_output: Tensor) -> Tensor:
    """By how much the source's vectors raise each target token's log-probability, against vectors of zero."""
    whole = _predicted(model, source, target_input, target_output, lambda embedded: embedded)
    return (whole - _predicted(model, source, target_input, target_output, torch.zeros_like))[0]


def _slopes(
    model: Seq2Seq,
    source: Tensor,
    target_input: Tensor,
    target_output: Tensor,
    scales: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """(target, source): slopes along the vectors, times these; each row is taken where its vectors are scaled.

    Args:
        model: whose vectors they are.
        source: (row, source), as `target_input` and `target_output` (row, target).
        target_input: see above.
        target_output: see above.
        scales: (row,).
        weights: (row,), of the rows in the sum; by default all 1.
    """
    vectors: list[Tensor] = []
    scaled: list[Tensor] = []

    def watched(embedded: Tensor) -> Tensor:
        vectors.append(embedded.detach())
        scaled.append((vectors[0] * scales.to(embedded)[:, None, None]).requires_grad_())
        return scaled[0]

    found = _predicted(model, source, target_input, target_output, watched).sum(dim=0)
    slopes = (torch.autograd.grad(one, scaled[0], retain_graph=True)[0] for one in found)
    along = torch.stack([(slope * vectors[0]).sum(dim=-1) for slope in slopes])  # (target, row, source)
    return along.sum(dim=1) if weights is None else torch.einsum("trs,r->ts", along, weights.to(along))


@torch.inference_mode()
def _occlusion(model: Seq2Seq, source: Tensor, target_input: Tensor, target_output: Tensor) -> Tensor:
    whole = _predicted(model, source, target_input, target_output, lambda embedded: embedded)
    lost = []
    for hidden in torch.arange(source.shape[1], device=source.device).split(_ROWS_AT_ONCE):
        one, two, three = (part.expand(len(hidden), -1) for part in (source, target_input, target_output))
        lost.append(whole - _predicted(model, one, two, three, _without(hidden)))
    return torch.cat(lost).T


def _without(hidden: Tensor) -> Callable[[Tensor], Tensor]:
    """Row i loses its vector at position `hidden[i]`."""

    def change(embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        embedded[torch.arange(len(hidden), device=hidden.device), hidden] = 0.0
        return embedded

    return change


def _predicted(
    model: Seq2Seq,
    source: Tensor,
    target_input: Tensor,
    target_output: Tensor,
    change: Callable[[Tensor], Tensor],
) -> Tensor:
    """(row, target) log-probabilities with the source's token vectors changed."""
    with _changed_source(model, change):
        memory = model.encode(source)
    return log_probabilities_of(model.project(model.decode(target_input, memory)), target_output)


@contextmanager
def _changed_source(model: Seq2Seq, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change what a source token is embedded as, its position apart; every architecture embeds in the same way."""

    def hook(module: Any, arguments: Any, embedded: Tensor) -> Tensor:
        return change(embedded)

    handle = cast(Any, model).source_embedding.tokens.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
