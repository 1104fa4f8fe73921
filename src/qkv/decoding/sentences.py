"""Many sources at once: sorted by length, searched in batches, returned in the order they came in."""

from collections.abc import Callable, Sequence

import torch

from qkv.decoding.cpu.side_by_side import side_by_side
from qkv.decoding.hypothesis import Hypothesis, SearchOptions
from qkv.decoding.search import search
from qkv.decoding.shortlist import Shortlist, Shortlisted
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import pad as pad_sequences
from qkv.text.tokenizer import Tokenizers

_ENOUGH_ROWS = 32
_BATCHES_A_THREAD = 2


def search_all(
    model: Seq2Seq,
    sources: Sequence[Sequence[int]],
    tokenizers: Tokenizers,
    options: SearchOptions,
    *,
    batch_tokens: int = 8192,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int], None] | None = None,
    shortlist: Shortlist | None = None,
) -> list[list[Hypothesis]]:
    """Search for the best outputs of each source.

    Args:
        model: in evaluation mode, on `device`.
        sources: token ids of each source, with eos.
        tokenizers: give the special ids.
        options: how to search.
        batch_tokens: source tokens × beam in a batch, at most (a longer source is a batch of its own).
        device: where the model is.
        on_progress: called with the number of sources done since the last call.
        shortlist: limits the target tokens that a batch may consist of, if given.

    Returns:
        For each source its `options.n_best` hypotheses, best first.
    """
    bos, eos, pad = tokenizers.target.bos, tokenizers.target.eos, tokenizers.target.pad

    def search_batch(indices: Sequence[int]) -> list[list[Hypothesis]]:
        padded, mask = pad_sequences([list(sources[index]) for index in indices], tokenizers.source.pad)
        source, source_mask = padded.to(device), None if mask is None else mask.to(device)
        if shortlist is None:
            return search(model, source, source_mask, bos=bos, eos=eos, pad=pad, options=options)
        narrow = Shortlisted(model, shortlist.of(source))
        first, last, filling = map(narrow.place, (bos, eos, pad))
        return narrow.restore(search(narrow, source, source_mask, bos=first, eos=last, pad=filling, options=options))

    lengths = [len(source) for source in sources]
    threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    batches = length_sorted_batches(lengths, _tokens_at_once(lengths, batch_tokens // options.beam, threads))
    results: list[list[Hypothesis]] = [[] for _ in sources]
    for indices, found in zip(batches, side_by_side(search_batch, batches, threads), strict=True):
        for index, hypotheses in zip(indices, found, strict=True):
            results[index] = hypotheses
        if on_progress is not None:
            on_progress(len(indices))
    return results


def _tokens_at_once(lengths: Sequence[int], most: int, threads: int) -> int:
    """What a batch may hold, so that each of several threads has some batches, but none of a few rows only."""
    if threads == 1 or not lengths:
        return most
    return min(most, max(_ENOUGH_ROWS * max(lengths), sum(lengths) // (_BATCHES_A_THREAD * threads)))


def length_sorted_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of like length, longest first, so that memory is at its peak at once if it is to run out.

    A batch that has rows enough to keep a processor busy ends where more than a quarter of the next row would be
    padding.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = not batches or (len(batches[-1]) + 1) * longest > max_tokens
        if full or (len(batches[-1]) >= _ENOUGH_ROWS and 4 * lengths[index] < 3 * longest):
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches
