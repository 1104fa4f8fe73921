"""Masks cut from whole words of random bits: as good as torch's."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from qkv.nn.dropout import dropout
from qkv.training.masks import drawing_from


@pytest.fixture(autouse=True)
def masks():
    torch.manual_seed(0)
    with drawing_from():
        yield


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_rate_and_expectation(probability):
    x = torch.ones(400, 1001)
    dropped = dropout(x, probability)
    # Five standard deviations of the mean of so many coin tosses.
    margin = 5 * (probability * (1 - probability) / x.numel()) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(probability, abs=margin)
    assert dropped.mean().item() == pytest.approx(1.0, abs=margin / (1 - probability))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elements_are_dropped_or_scaled(dtype):
    x = torch.randn(64, 65, dtype=dtype)
    dropped = dropout(x, 0.25)
    assert dropped.dtype == dtype
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)


def test_the_four_numbers_of_a_draw_are_independent():
    kept = (dropout(torch.ones(100_000, 4), 0.5) != 0).float()
    torch.testing.assert_close(kept.mean(dim=0), torch.full((4,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.corrcoef(kept.T), torch.eye(4), atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (2, 3, 4, 1)])
def test_any_shape(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_a_transposed_tensor():
    x = torch.arange(1.0, 13.0).view(3, 4).T
    dropped = dropout(x, 0.5)
    assert torch.all((dropped == 0) | (dropped == 2 * x))


def test_probability_one_drops_all():
    assert torch.equal(dropout(torch.ones(10), 1.0), torch.zeros(10))


def test_gradient_is_the_mask():
    x = torch.ones(20, 30, requires_grad=True)
    dropped = dropout(x, 0.4)
    dropped.sum().backward()
    assert (dropped == 0).any()
    # Of ones, what is left is the mask itself.
    assert torch.equal(x.grad, dropped.detach())


def test_the_seed_decides():
    x = torch.ones(1000)
    torch.manual_seed(1)
    first, next_draw = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(1)
    again = dropout(x, 0.5)
    torch.manual_seed(2)
    other = dropout(x, 0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_draw)
    assert not torch.equal(first, other)


def test_a_thread_may_draw_from_a_generator_of_its_own():
    x = torch.ones(1000)

    def drawn(seed):
        with drawing_from(torch.Generator().manual_seed(seed)):
            return dropout(x, 0.5)

    torch.manual_seed(1)
    expected = nn.functional.dropout(x, 0.5)
    torch.manual_seed(1)
    with drawing_from(torch.Generator().manual_seed(2)), ThreadPoolExecutor(1) as other:
        mine = dropout(x, 0.5)
        theirs = other.submit(dropout, x, 0.5).result()
        inner = drawn(3)
        later = dropout(x, 0.5)
    assert torch.equal(theirs, expected)  # torch's own, of which this thread has taken nothing
    assert torch.equal(mine, drawn(2))
    assert torch.equal(inner, drawn(3))
    with drawing_from(torch.Generator().manual_seed(2)):
        assert torch.equal(torch.stack((dropout(x, 0.5), dropout(x, 0.5))), torch.stack((mine, later)))
