"""The best of many thousand tokens, found without sorting them all.

The vocabulary is cut into blocks. A block's maximum is found by vector instructions, and the k best tokens lie in the
k blocks of the largest maxima, so only these are looked into.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 64


def best_token(log_probabilities: Float[Tensor, "rows vocab"]) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"]]:
    """(log-probability, id) of each row's most probable token."""
    vocabulary = log_probabilities.shape[1]
    if vocabulary % _BLOCK:
        values, tokens = log_probabilities.max(dim=1)
        return values, tokens
    blocks = log_probabilities.unflatten(1, (-1, _BLOCK))
    block = blocks.amax(dim=2).argmax(dim=1)
    values, within = blocks[torch.arange(len(block), device=block.device), block].max(dim=1)
    return values, block * _BLOCK + within


def best_extensions(
    gains: Float[Tensor, "sentence beam vocab"], so_far: Float[Tensor, "sentence beam"], count: int
) -> tuple[Float[Tensor, "sentence count"], Int[Tensor, "sentence count"], Int[Tensor, "sentence count"]]:
    """A sentence's most probable extensions, best first: (log-probability, beam it extends, token).

    Args:
        gains: log-probability of each token after each beam.
        so_far: log-probability of each beam.
        count: how many are wanted; there are fewer if all beams and tokens do not yield as many.
    """
    _, beam, vocabulary = gains.shape
    blocks = vocabulary // _BLOCK
    if beam * blocks <= 2 * count:
        best, where = (gains + so_far[:, :, None]).flatten(1).topk(min(count, beam * vocabulary))
        return best, where // vocabulary, where % vocabulary

    whole, rest = gains.split((blocks * _BLOCK, vocabulary - blocks * _BLOCK), dim=2)
    whole = whole.unflatten(2, (blocks, _BLOCK))
    maxima = whole.amax(dim=3) + so_far[:, :, None]
    chosen = maxima.flatten(1).topk(count, sorted=False).indices  # each a block of one beam
    sentence = torch.arange(len(gains), device=gains.device)[:, None]
    inside = whole[sentence, chosen // blocks, chosen % blocks] + so_far.gather(1, chosen // blocks)[:, :, None]
    candidates = torch.cat((inside.flatten(1), (rest + so_far[:, :, None]).flatten(1)), dim=1)
    best, where = candidates.topk(count)

    in_rest = where - count * _BLOCK  # not negative: a token of the rest
    block = chosen.gather(1, (where // _BLOCK).clamp(max=count - 1))
    parents, tokens = block // blocks, block % blocks * _BLOCK + where % _BLOCK
    if rest.shape[2] > 0:
        width = rest.shape[2]
        parents = torch.where(in_rest < 0, parents, in_rest // width)
        tokens = torch.where(in_rest < 0, tokens, blocks * _BLOCK + in_rest % width)
    return best, parents, tokens
