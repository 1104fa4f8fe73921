"""The optimizer's step, the average of the weights, and going on where one left off."""

import pytest
import torch
from torch import nn

from qkv.config.schema import TrainingConfig
from qkv.run.checkpoint import weights_of
from qkv.training.optimization import Optimization

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def gradients(step: int, model: nn.Module) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def take_step(optimization: Optimization, model: nn.Module, number: int, learning_rate: float = 0.01) -> torch.Tensor:
    """A step with a made-up gradient, handed in as that of a sum."""
    optimization.zero_grad()
    loss = sum((p * g).sum() for p, g in zip(model.parameters(), gradients(number, model), strict=True))
    optimization.scale(loss).backward()
    return optimization.step(number, learning_rate)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_steps_equal_pytorchs(name, kind):
    settings = TrainingConfig(optimizer=name, clip_norm=None, betas=(0.8, 0.9), eps=1e-6)
    ours, theirs = network(), network()
    optimization = Optimization(ours, settings, CPU)
    optimizer = kind(theirs.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.0, foreach=False)
    for number in (1, 2, 3):
        take_step(optimization, ours, number)
        for p, g in zip(theirs.parameters(), gradients(number, theirs), strict=True):
            p.grad = g
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_only_matrices_decay():
    decaying, plain = network(), network()
    take_step(Optimization(decaying, TrainingConfig(weight_decay=0.5), CPU), decaying, 1, learning_rate=0.1)
    take_step(Optimization(plain, TrainingConfig(weight_decay=0.0), CPU), plain, 1, learning_rate=0.1)
    start = network()
    for a, b, before in zip(decaying.parameters(), plain.parameters(), start.parameters(), strict=True):
        pull = before * 0.1 * 0.5 if before.dim() == 2 else torch.zeros_like(before)
        torch.testing.assert_close(b - a, pull)


def test_clipping_shortens_the_gradient_and_reports_its_length_before():
    """Adam hardly feels the length of a gradient; its first moment shows what was left of it."""
    model = network()
    optimization = Optimization(model, TrainingConfig(clip_norm=0.5), CPU)
    length = torch.cat([g.flatten() for g in gradients(1, model)]).norm()
    assert length > 0.5
    torch.testing.assert_close(take_step(optimization, model, 1), length)
    tensors, _ = optimization.state()
    moments = torch.cat([t.flatten() for name, t in tensors.items() if name.startswith("exp_avg.")])
    torch.testing.assert_close(moments.norm() / (1 - 0.9), torch.tensor(0.5), rtol=1e-4, atol=0)


def test_a_short_gradient_is_not_clipped():
    one, other = network(), network()
    take_step(Optimization(one, TrainingConfig(clip_norm=1e6), CPU), one, 1)
    take_step(Optimization(other, TrainingConfig(clip_norm=None), CPU), other, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_average_follows_its_formula():
    """average ← decay · average + (1 − decay) · weights, where decay begins small and ends at what was asked for."""
    model = network()
    optimization = Optimization(model, TrainingConfig(ema=0.3), CPU)
    expected = {name: tensor.double() for name, tensor in weights_of(model).items()}
    for number in range(1, 8):
        take_step(optimization, model, number)
        decay = min(0.3, (1 + number) / (10 + number))
        expected = {
            name: decay * expected[name] + (1 - decay) * tensor.double() for name, tensor in weights_of(model).items()
        }
    assert (1 + 1) / (10 + 1) < 0.3 < (1 + 7) / (10 + 7), "both sides of the minimum are tried"
    assert optimization.average is not None
    for name, tensor in expected.items():
        torch.testing.assert_close(optimization.average[name].double(), tensor, rtol=1e-6, atol=1e-6)


def test_without_ema_there_is_no_average():
    assert Optimization(network(), TrainingConfig(), CPU).average is None


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_restored_goes_on_bit_for_bit(precision):
    settings = TrainingConfig(weight_decay=0.1, precision=precision)
    whole = network()
    optimization = Optimization(whole, settings, CPU)
    for number in range(1, 7):
        take_step(optimization, whole, number)
        if number == 3:
            tensors, scale = optimization.state()
            saved = {name: tensor.clone() for name, tensor in tensors.items()}
            weights = {name: tensor.clone() for name, tensor in whole.state_dict().items()}

    resumed = network()
    again = Optimization(resumed, settings, CPU)
    resumed.load_state_dict(weights)
    again.restore(saved, scale)
    for number in range(4, 7):
        take_step(again, resumed, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.state()[1] == optimization.state()[1]


def test_a_gradient_that_overflows_in_fp16_is_left_out():
    model = network()
    optimization = Optimization(model, TrainingConfig(precision="fp16", ema=0.9), CPU)
    before = [p.clone() for p in model.parameters()]
    optimization.zero_grad()
    optimization.scale(sum((p * torch.inf).sum() for p in model.parameters())).backward()
    scale = optimization.state()[1]["scale"]
    assert not torch.isfinite(optimization.step(1, 0.01))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimization.state()[1]["scale"] == scale / 2
    take_step(optimization, model, 2)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert optimization.average is not None
    assert all(torch.isfinite(tensor).all() for tensor in optimization.average.values())
