"""The best tokens found block by block are those that sorting everything finds."""

import pytest
import torch

from qkv.decoding.ranking import best_extensions, best_token


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 640, 1000, 1281])
def test_the_best_token(vocabulary):
    log_probabilities = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(1))
    log_probabilities[0, vocabulary // 2 :] = -torch.inf
    values, tokens = best_token(log_probabilities)
    assert torch.equal(values, log_probabilities.amax(dim=1))
    assert torch.equal(tokens, log_probabilities.argsort(dim=1, descending=True)[:, 0])


@pytest.mark.parametrize("vocabulary", [3, 64, 640, 1000, 1281])
@pytest.mark.parametrize(("beam", "count"), [(1, 2), (4, 8), (5, 10)])
def test_the_best_extensions(vocabulary, beam, count):
    generator = torch.Generator().manual_seed(vocabulary)
    gains, so_far = torch.randn(6, beam, vocabulary, generator=generator), torch.randn(6, beam, generator=generator)
    gains[0, :, 1:] = -torch.inf  # fewer than are wanted
    gains[1, 0, -1] = 50.0  # beyond the last whole block
    gains[2, -1, 0] = 50.0
    best, parents, tokens = best_extensions(gains, so_far, count)
    totals = gains + so_far[:, :, None]
    expected = totals.flatten(1).sort(dim=1, descending=True).values[:, :count]
    assert torch.equal(best, expected)
    assert torch.equal(totals[torch.arange(6)[:, None], parents, tokens], best)
    finite = best > -torch.inf
    places = [set(zip(*pairs, strict=True)) for pairs in zip(parents.tolist(), tokens.tolist(), strict=True)]
    assert [len(place) for place in places] == [best.shape[1]] * 6 or not finite.all()
