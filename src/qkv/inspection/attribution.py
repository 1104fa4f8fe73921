"""Which source tokens mattered for each target token: by gradient and by occlusion, as attention is no explanation.

Attention shows where a layer looks, not what would change the output (Jain and Wallace 2019). These two ask the whole
model: what happens to a target token's log-probability if a source token's vector changes?
"""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from qkv.errors import UserError
from qkv.inspection.attention_maps import as_translator, led_along, log_probabilities
from qkv.nn.seq2seq import Seq2Seq
from qkv.run import Run
from qkv.translator import Translator

METHODS = ("gradient", "occlusion")

_ROWS_AT_ONCE = 16  # bounds the logits held in memory: rows × target × vocabulary


@dataclass(frozen=True)
class Attribution:
    """How much each source token mattered for each target token. In a notebook it draws itself.

    Attributes:
        method: gradient or occlusion.
        source_tokens: pieces of the source, end of sentence included.
        target_tokens: pieces that were predicted.
        scores: (target, source), in natural log-probability: above zero if the source token spoke for the target
            token, below if against it.
    """

    method: str
    source_tokens: list[str]
    target_tokens: list[str]
    scores: np.ndarray = field(repr=False)

    def _repr_html_(self) -> str:
        from qkv.inspection.map_page import STYLE, drawing

        largest = float(np.abs(self.scores).max()) or 1.0
        shown = drawing(self.scores / largest, self.target_tokens, self.source_tokens, title=self.method)
        legend = f"{html.escape(self.method)}: blue for, orange against; the fullest colour is {largest:.3g} nats"
        figure = f"<figure>{shown}<figcaption>{legend}</figcaption></figure>"
        return f'<div class="qkv-maps"><style>{STYLE}</style>{figure}</div>'


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
      token's vector, times that vector. One pass; says what a small change would do, which
      is little where the model is sure: there, slopes vanish and mislead.
    - occlusion (Zeiler and Fergus 2014; Li et al. 2016): how much log-probability is lost if the vector is zero, its
      position kept. One pass per source token; says what its absence does.

    Args:
        model_or_run: a translator, a run or its directory.
        source: the text to be read.
        target: what is to be written; by default what the search finds.
        method: gradient or occlusion.
        beam: in place of the run's; 1 is greedy search.

    Raises:
        UserError: if the method is unknown, and as `qkv.inspect`.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    translator = as_translator(model_or_run)
    source_ids, target_ids, _ = led_along(translator, source, target, beam=beam)
    return Attribution(
        method,
        translator.tokenizers.source.pieces(source_ids),
        translator.tokenizers.target.pieces(target_ids),
        attribution_scores(translator, source_ids, target_ids, method),
    )


def attribution_scores(translator: Translator, source: list[int], target: list[int], method: str) -> np.ndarray:
    """The (target, source) scores of a pair of ids; see `attribute`."""
    device, bos = translator.device, translator.tokenizers.target.bos
    with torch.inference_mode(False):  # tensors that have gradients, whatever the caller does
        tensors = [torch.tensor([ids], device=device) for ids in (source, [bos, *target[:-1]], target)]
    compute = _gradient if method == "gradient" else _occlusion
    return compute(translator.model, *tensors).to(torch.float64).cpu().numpy()


def _gradient(model: Seq2Seq, source: Tensor, target_input: Tensor, target_output: Tensor) -> Tensor:
    vectors: list[Tensor] = []

    def watched(embedded: Tensor) -> Tensor:
        vectors.append(embedded.detach().clone().requires_grad_())
        return vectors[-1]

    # cuDNN's recurrences have no gradient in evaluation mode.
    with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        found = _predicted(model, source, target_input, target_output, watched)[0]
        slopes = [torch.autograd.grad(one, vectors[0], retain_graph=True)[0] for one in found]
    return torch.stack([(slope * vectors[0].detach()).sum(dim=-1)[0] for slope in slopes])


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
    return log_probabilities(model.project(model.decode(target_input, memory)), target_output)


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
