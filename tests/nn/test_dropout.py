"""Dropout, as torch draws it."""

import pytest
import torch

from qkv.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_rate_and_expectation(probability):
    x = torch.ones(400, 1001)
    dropped = dropout(x, probability)
    # Five standard deviations of the mean of so many coin tosses.
    margin = 5 * (probability * (1 - probability) / x.numel()) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(probability, abs=margin)
    assert dropped.mean().item() == pytest.approx(1.0, abs=margin / (1 - probability))


def test_elements_are_dropped_or_scaled(dtype):
    x = torch.randn(64, 65, dtype=dtype)
    dropped = dropout(x, 0.25)
    assert dropped.dtype == dtype
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (2, 3, 4, 1)])
def test_any_shape(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_a_transposed_tensor():
    x = torch.arange(1.0, 13.0).view(3, 4).T
    dropped = dropout(x, 0.5)
    assert torch.all((dropped == 0) | (dropped == 2 * x))


def test_probability_zero_and_evaluation_change_nothing():
    x = torch.randn(3, 4)
    assert dropout(x, 0.0) is x
    assert dropout(x, 0.5, training=False) is x
    assert Dropout(0.5).eval()(x) is x


def test_probability_one_drops_all():
    assert torch.equal(dropout(torch.ones(10), 1.0), torch.zeros(10))


def test_module_drops_while_training():
    assert (Dropout(0.5)(torch.ones(1000)) == 0).any()


def test_gradient_is_the_mask(device):
    x = torch.ones(20, 30, device=device, requires_grad=True)
    dropped = dropout(x, 0.4)
    dropped.sum().backward()
    assert (dropped == 0).any()
    # Of ones, what is left is the mask itself.
    assert torch.equal(x.grad, dropped.detach())


def test_the_seed_decides(device):
    x = torch.ones(1000, device=device)
    torch.manual_seed(1)
    first, next_draw = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(1)
    again = dropout(x, 0.5)
    torch.manual_seed(2)
    other = dropout(x, 0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_draw)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5])
def test_impossible_probabilities_are_refused(probability):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Dropout(probability)
