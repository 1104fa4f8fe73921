"""The parts of a Transformer that can be changed or left out, and what each is there for."""

import math

import pytest
import torch
from torch import nn

from qkv.nn import MultiHeadAttention, Transformer, TransformerConfig
from qkv.nn.layers import Residual
from qkv.nn.masks import padding_mask
from qkv.nn.norm import BatchNorm, make_norm

CLOSE = {"rtol": 0.0, "atol": 1e-12}


def make_model(**options) -> Transformer:
    defaults = {"d_model": 8, "num_heads": 2, "d_ff": 12, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
    return Transformer(TransformerConfig(11, **(defaults | options))).eval()


# Norm


def test_batch_norm_is_torchs_over_all_tokens():
    ours, theirs = BatchNorm(5, momentum=0.3), nn.BatchNorm1d(5, momentum=0.3)
    for parameter, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        parameter.data = other.data = torch.randn(5)
    for _ in range(3):
        x = torch.randn(4, 6, 5) * 3 + 1
        torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).unflatten(0, (4, 6)), **CLOSE)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, **CLOSE)
    torch.testing.assert_close(ours.running_variance, theirs.running_var, **CLOSE)
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).unflatten(0, (2, 3)), **CLOSE)


def test_a_single_token_has_no_variance_and_takes_the_running_one():
    norm, x = BatchNorm(5), torch.randn(1, 1, 5)
    torch.testing.assert_close(norm.train()(x), norm.eval()(x), **CLOSE)


def test_layer_norm_depends_on_one_token_and_batch_norm_on_all():
    """The article's reason for LayerNorm."""
    x = torch.randn(2, 3, 8)
    other = x.clone()
    other[1, 2] += 1.0
    assert torch.equal(make_norm("layer", 8)(x)[0], make_norm("layer", 8)(other)[0])
    assert not torch.allclose(make_norm("batch", 8)(x)[0], make_norm("batch", 8)(other)[0])
    assert torch.equal(make_norm("none", 8)(x), x)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
def test_all_norms_of_a_model_are_of_one_kind(norm, norm_position):
    kinds = {"layer": nn.LayerNorm, "batch": BatchNorm, "none": nn.Identity}
    model = make_model(norm=norm, norm_position=norm_position)
    found = [module for module in model.modules() if isinstance(module, tuple(kinds.values()))]
    assert {type(module) for module in found} == {kinds[norm]}
    assert len(found) == 2 * 2 + 2 * 3 + (2 if norm_position == "pre" else 0)


def test_batch_norm_without_bias():
    assert BatchNorm(4, bias=False)(torch.randn(2, 3, 4)).shape == (2, 3, 4)
    assert not [name for name, _ in make_model(norm="batch", bias=False).named_parameters() if "bias" in name]


# Residual


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_without_residual_nothing_is_added(norm_position):
    x = torch.randn(2, 3, 4)
    with_, without = (Residual(4, norm_position=norm_position, residual=on) for on in (True, False))

    def zero(x):
        return torch.zeros_like(x)

    assert torch.all(without(x, zero) == 0.0)
    assert not torch.any((with_(x, zero) == 0.0).all(dim=-1))


def test_residuals_keep_the_gradient_alive():
    """Through 24 layers the embedding's gradient stays far larger with residuals than without."""
    norms = {}
    for residual in (True, False):
        torch.manual_seed(0)
        model = make_model(encoder_layers=24, norm="none", residual=residual)
        model.encode(torch.randint(11, (2, 5))).states.sum().backward()
        norms[residual] = model.source_embedding.tokens.weight.grad.norm().item()
    assert norms[True] > 1e3 * norms[False]


# Scores


def test_unscaled_scores_are_larger_by_the_root_of_the_width():
    torch.manual_seed(0)
    scaled, unscaled = (MultiHeadAttention(8, 2, scale_scores=on) for on in (True, False))
    unscaled.load_state_dict(scaled.state_dict())
    with torch.no_grad():  # a query twice as large undoes √d_head = 2
        scaled.projection.weight[:8] *= math.sqrt(8 // 2)
    x = torch.randn(2, 5, 8)
    for weights in (True, False):
        torch.testing.assert_close(
            scaled(x, return_weights=weights)[0], unscaled(x, return_weights=weights)[0], **CLOSE
        )


def test_unscaled_scores_of_wide_heads_saturate_the_softmax():
    """Section 3.2.1, footnote 4: with d_head independent components of variance 1 a score has variance d_head."""
    torch.manual_seed(0)
    query, key = torch.randn(1, 64, 256), torch.randn(1, 64, 256)
    scores = query @ key.transpose(1, 2)
    largest = [(scores * scale).softmax(dim=-1).amax(dim=-1).mean().item() for scale in (1.0, 1 / 16)]
    assert largest[0] > 0.8
    assert largest[1] < 0.3


# Masks


def test_without_the_causal_mask_training_sees_the_future_and_decoding_cannot():
    source, target = torch.randint(11, (1, 4)), torch.randint(11, (1, 5))
    other = target.clone()
    other[0, -1] = (target[0, -1] + 1) % 11
    for causal in (True, False):
        model = make_model(causal=causal)
        assert torch.allclose(model(source, target)[:, 0], model(source, other)[:, 0]) is causal
        memory = model.encode(source)
        state = model.start(memory)
        stepped = torch.cat([model.decode(target[:, i : i + 1], memory, state) for i in range(5)], dim=1)
        assert torch.allclose(stepped, model.decode(target, memory)) is causal


def test_without_the_padding_mask_padding_changes_the_result():
    mask = padding_mask(torch.tensor([5, 3]))
    source, target = torch.randint(11, (2, 5)), torch.randint(11, (2, 4))
    for masked in (True, False):
        model = make_model(mask_padding=masked)
        together = model(source, target, mask)[1:]
        assert torch.allclose(together, model(source[1:, :3], target[1:])) is masked


# Position


@pytest.mark.parametrize(
    ("position", "sees_order"), [("none", False), ("sinusoidal", True), ("learned", True), ("rotary", True)]
)
def test_a_permuted_source_gives_a_permuted_memory_only_without_positions(position, sees_order):
    model, order = make_model(position=position), torch.tensor([3, 0, 4, 1, 2])
    source = torch.tensor([[1, 2, 3, 4, 5]])
    permuted = model.encode(source[:, order]).states
    assert torch.allclose(permuted, model.encode(source).states[:, order], rtol=0.0, atol=1e-10) is not sees_order
