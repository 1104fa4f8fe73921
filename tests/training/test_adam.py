"""Our Adam is PyTorch's: the same weights and the same state, bit for bit, and a state goes from one to the other."""

import pytest
import torch
from torch import nn

from qkv.training.adam import Adam

OPTIONS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
THEIRS = {True: torch.optim.AdamW, False: torch.optim.Adam}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (5,), (2, 2)]]


def groups(parameters):
    """A matrix that decays, and others that do not."""
    return [{"params": parameters[:1], "weight_decay": 0.3}, {"params": parameters[1:], "weight_decay": 0.0}]


def take_steps(optimizer, parameters, numbers):
    """The last parameter has its first gradient at step 3."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for index, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if index == 2 and number < 3 else gradient
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * number
        optimizer.step()


def assert_equal(optimizer, parameters, other, others):
    for ours, theirs in zip(parameters, others, strict=True):
        assert torch.equal(ours, theirs)
        assert optimizer.state[ours].keys() == other.state[theirs].keys()
        assert all(torch.equal(value, other.state[theirs][key]) for key, value in optimizer.state[ours].items())


@pytest.mark.parametrize("decoupled", [True, False])
def test_equals_pytorchs_bit_for_bit(decoupled):
    ours, theirs = parameters(), parameters()
    optimizer = Adam(groups(ours), decoupled=decoupled, **OPTIONS)
    other = THEIRS[decoupled](groups(theirs), fused=True, **OPTIONS)
    take_steps(optimizer, ours, range(1, 6))
    take_steps(other, theirs, range(1, 6))
    assert_equal(optimizer, ours, other, theirs)
    assert optimizer.state[ours[2]]["step"] == 3, "its steps are counted from its first gradient"


@pytest.mark.parametrize("decoupled", [True, False])
def test_goes_on_from_a_state_of_pytorchs(decoupled):
    """And the other way round: checkpoints do not tell who wrote them."""
    whole, first, second = parameters(), parameters(), parameters()
    optimizer = Adam(groups(whole), decoupled=decoupled, **OPTIONS)
    take_steps(optimizer, whole, range(1, 8))

    other = THEIRS[decoupled](groups(first), fused=True, **OPTIONS)
    take_steps(other, first, range(1, 4))
    ours = Adam(groups(second), decoupled=decoupled, **OPTIONS)
    hand_over(other, first, ours, second)
    take_steps(ours, second, range(4, 6))
    hand_over(ours, second, other, first)
    take_steps(other, first, range(6, 8))
    assert_equal(optimizer, whole, other, first)


@torch.no_grad()
def hand_over(optimizer, parameters, other, others):
    for parameter, its in zip(parameters, others, strict=True):
        its.copy_(parameter)
        other.state[its] = {key: value.clone() for key, value in optimizer.state[parameter].items()}
