"""Greedy search: the most probable token at every step."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.decoding.hypothesis import Hypothesis, SearchOptions
from qkv.decoding.ranking import best_token
from qkv.decoding.steps import Progress, check_prefix, forbidden_tokens, worth_compacting
from qkv.nn.seq2seq import Seq2Seq


@torch.inference_mode()
def greedy(
    model: Seq2Seq,
    source: Int[Tensor, "batch source"],
    source_mask: Bool[Tensor, "batch source"] | None = None,
    *,
    bos: int,
    eos: int,
    pad: int | None = None,
    options: SearchOptions = SearchOptions(),
    prefix: Sequence[int] = (),
) -> list[Hypothesis]:
    """Append the most probable token until it is `eos` or the length limit is reached.

    Args:
        model: in eval mode.
        source: token ids, right-padded.
        source_mask: True = a real token; None when no row is padded.
        bos: the token that every output begins with.
        eos: the token that ends an output.
        pad: is never emitted, nor is `bos`.
        options: the beam's size and n_best are ignored.
        prefix: tokens that every output begins with; their log-probabilities count as those of any others.

    Returns:
        One hypothesis for each row.

    Raises:
        ValueError: see `beam_search`.
    """
    batch = source.shape[0]
    check_prefix(prefix, bos, eos, pad, model)
    progress = Progress(
        model, source, source_mask, forbidden=forbidden_tokens(bos, eos, pad), options=options, prefix=prefix
    )
    newest = source.new_full((batch,), bos)
    live = list(range(batch))  # rows of `newest` that still grow
    outputs: list[list[int]] = [[] for _ in range(batch)]
    log_probabilities = [0.0] * batch

    while live:
        gains, newest = best_token(progress.step(newest))
        still_live = []
        new_tokens, new_gains = newest.tolist(), gains.tolist()
        for row in live:
            sentence = progress.sentences[row]
            outputs[sentence].append(new_tokens[row])
            log_probabilities[sentence] += new_gains[row]
            if new_tokens[row] != eos and len(outputs[sentence]) < progress.limits[sentence]:
                still_live.append(row)
        live = still_live
        if live and worth_compacting(len(live), len(progress.sentences)):
            rows = torch.tensor(live, device=source.device)
            progress.keep(rows)
            newest = newest[rows]
            live = list(range(len(live)))

    return [
        _hypothesis(tokens, log_probability, eos, options)
        for tokens, log_probability in zip(outputs, log_probabilities, strict=True)
    ]


def _hypothesis(tokens: list[int], log_probability: float, eos: int, options: SearchOptions) -> Hypothesis:
    finished = tokens[-1] == eos
    score = options.score(log_probability, len(tokens))
    return Hypothesis(tokens[:-1] if finished else tokens, score, log_probability, finished)
