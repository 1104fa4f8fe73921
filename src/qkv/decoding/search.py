"""Search: from a source to the most probable output the model can be led to."""

from collections.abc import Sequence

from jaxtyping import Bool, Int
from torch import Tensor

from qkv.decoding.beam import beam_search
from qkv.decoding.greedy import greedy
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.steps import Progress
from qkv.nn.seq2seq import Seq2Seq


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
    allowed: Bool[Tensor, "batch vocab"] | None = None,
) -> list[list[Hypothesis]]:
    """The n best outputs for each row, best first: by `greedy` if the beam is 1, else by `beam_search`.

    What is given is told at `Progress`.
    """
    progress = Progress(
        model, source, source_mask, bos=bos, eos=eos, pad=pad, options=options, prefix=prefix, allowed=allowed
    )
    return [[best] for best in greedy(progress)] if options.beam == 1 else beam_search(progress)
