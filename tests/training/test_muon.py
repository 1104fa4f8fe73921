"""Muon: steps of hidden matrices along their orthogonalised momentum."""

import pytest
import torch
from torch import nn

from qkv.config.schema import TrainingConfig
from qkv.nn.architectures import ARCHITECTURES
from qkv.training.muon import Muon, hidden_matrices, orthogonal
from qkv.training.optimization import Optimization

CPU = torch.device("cpu")
OPTIONS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8), (1, 1, 5), (4, 7, 1)])
def test_all_singular_values_come_near_one(shape):
    found = orthogonal(drawn(*shape))
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_it_is_the_nearest_orthogonal_matrix_or_nearly():
    matrices = drawn(5, 12, 20)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    nearest, found = (u @ v).flatten(1), orthogonal(matrices).flatten(1)
    assert torch.cosine_similarity(found, nearest).min() > 0.95


def test_nothing_comes_of_a_gradient_of_nothing():
    assert torch.equal(orthogonal(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_steps_equal_pytorchs_but_for_its_half_precision():
    ours, theirs = ([nn.Parameter(drawn(*shape)) for shape in ((16, 16), (16, 16), (8, 24), (24, 8))] for _ in "ab")
    muon = Muon([(p, 1) for p in ours], **OPTIONS)
    other = torch.optim.Muon(theirs, nesterov=True, ns_steps=5, adjust_lr_fn="match_rms_adamw", **OPTIONS)
    starts = [p.detach().clone() for p in ours]
    for number in range(1, 5):
        for parameters in (ours, theirs):
            for i, p in enumerate(parameters):
                p.grad = drawn(*p.shape, seed=10 * number + i)
        muon.step()
        other.step()
    for a, b, start in zip(ours, theirs, starts, strict=True):
        way = (b - start).norm()
        assert (a - b).norm() < 0.03 * way, "bfloat16 has three digits"


def test_stacked_maps_are_orthogonalised_apart():
    stacked = nn.Parameter(drawn(24, 8))
    apart = [nn.Parameter(part.clone()) for part in stacked.detach().chunk(3)]
    one, several = Muon([(stacked, 3)], **OPTIONS), Muon([(p, 1) for p in apart], **OPTIONS)
    for number in (1, 2, 3):
        stacked.grad = drawn(24, 8, seed=number) * torch.tensor([1.0, 10.0, 0.1]).repeat_interleave(8)[:, None]
        for p, part in zip(apart, stacked.grad.chunk(3), strict=True):
            p.grad = part
        one.step()
        several.step()
    torch.testing.assert_close(stacked.detach(), torch.cat([p.detach() for p in apart]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES.built_in)
def test_embeddings_output_and_vectors_are_left_to_adam(name):
    kind = ARCHITECTURES[name]
    model = kind.build(kind.config(vocab_size=11))
    hidden = dict(hidden_matrices(model))
    left = {name for name, p in model.named_parameters() if p not in hidden and p.dim() == 2}
    assert hidden
    assert all(p.dim() == 2 for p in hidden)
    assert all("embedding" in name or name == "output.weight" for name in left), left
    for p, parts in hidden.items():
        assert len(p) % parts == 0


def test_queries_keys_and_values_are_three_maps_and_so_are_a_grus_gates():
    for name, own, parts in (("transformer", "projection.weight", 3), ("gru", "kernel.weight_hh_l0", 3)):
        kind = ARCHITECTURES[name]
        model = kind.build(kind.config(vocab_size=11))
        hidden = dict(hidden_matrices(model))
        assert {hidden[p] for name, p in model.named_parameters() if name.endswith(own)} == {parts}


def test_both_rates_rise_and_fall_together():
    kind = ARCHITECTURES["transformer"]
    model = kind.build(kind.config(vocab_size=11, d_model=16, num_heads=2, d_ff=32))
    settings = TrainingConfig(optimizer="muon", learning_rate=0.004, muon_learning_rate=0.02)
    optimization = Optimization(model, settings, CPU)
    optimization.scale(sum(p.sum() for p in model.parameters())).backward()
    optimization.step(1, 0.001)
    adam, muon = optimization._optimizers
    assert {group["lr"] for group in adam.param_groups} == {0.001}
    assert [group["lr"] for group in muon.param_groups] == [pytest.approx(0.005)]


def test_going_on_from_what_was_kept_is_going_on():
    kind = ARCHITECTURES["transformer"]
    whole, halves = (kind.build(kind.config(vocab_size=11, d_model=16, num_heads=2, d_ff=32)) for _ in "ab")
    halves.load_state_dict(whole.state_dict())
    settings = TrainingConfig(optimizer="muon", weight_decay=0.1)

    def walk(model: nn.Module, optimization: Optimization, numbers: range) -> None:
        for number in numbers:
            for i, p in enumerate(model.parameters()):
                p.grad = drawn(*p.shape, seed=100 * number + i)
            optimization.step(number, 0.001)

    walk(whole, Optimization(whole, settings, CPU), range(1, 5))
    first, second = (Optimization(halves, settings, CPU) for _ in "ab")
    walk(halves, first, range(1, 3))
    second.restore(*first.state())
    walk(halves, second, range(3, 5))
    for (name, a), b in zip(whole.named_parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b), name
