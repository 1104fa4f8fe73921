"""Search: from a source to the most probable output the model can be led to."""

from collections.abc import Sequence

from jaxtyping import Bool, Int
from torch import Tensor

from qkv.decoding.beam import beam_search
from qkv.decoding.greedy import greedy
from qkv.decoding.hypothesis import Hypothesis, SearchOptions
from qkv.decoding.scoring import score_targets
from qkv.nn.seq2seq import Seq2Seq

__all__ = ["Hypothesis", "SearchOptions", "beam_search", "greedy", "score_targets", "search"]


def search(
    model: Seq2Seq,
    source: Int[Tensor, "batch source"],
    source_mask: Bool[Tensor, "batch source"] | None = None,
    *,
    bos: int,
    eos: int,
    pad: int | None = None,
    options: SearchOptions = SearchOptions(),
    prefix: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """The n best outputs for each row, best first: by `greedy` if the beam is 1, else by `beam_search`."""
    if options.beam == 1:
        return [
            [hypothesis]
            for hypothesis in greedy(
                model, source, source_mask, bos=bos, eos=eos, pad=pad, options=options, prefix=prefix
            )
        ]
    return beam_search(model, source, source_mask, bos=bos, eos=eos, pad=pad, options=options, prefix=prefix)
