import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qkv.nn import DecoderLayer, EncoderLayer, FeedForward, LayerConfig, Residual, causal_mask, padding_mask

LAYER = {"d_model": 12, "num_heads": 3, "d_ff": 24, "dropout": 0.0}


class TestFeedForward:
    def test_relu_is_equation_2(self):
        module, x = FeedForward(6, 10), torch.randn(2, 3, 6)
        wide, narrow = module.wide, module.narrow
        expected = torch.clamp(x @ wide.weight.T + wide.bias, min=0) @ narrow.weight.T + narrow.bias
        torch.testing.assert_close(module(x), expected)

    def test_gelu(self):
        module, x = FeedForward(6, 10, activation="gelu"), torch.randn(2, 3, 6)
        wide = module.wide(x)
        expected = module.narrow(wide * (1 + torch.erf(wide / math.sqrt(2))) / 2)
        torch.testing.assert_close(module(x), expected)

    def test_swiglu_gates_one_half_by_the_other(self):
        module, x = FeedForward(6, 10, activation="swiglu"), torch.randn(2, 3, 6)
        gate, value = (x @ half.T for half in module.wide.weight.chunk(2))
        expected = (gate * torch.sigmoid(gate) * value) @ module.narrow.weight.T
        torch.testing.assert_close(module(x), expected)

    def test_every_position_alike(self):
        module, x = FeedForward(6, 10), torch.randn(2, 5, 6)
        torch.testing.assert_close(module(x)[:, 3:4], module(x[:, 3:4]))

    def test_without_bias(self):
        assert [name for name, _ in FeedForward(6, 10, bias=False).named_parameters()] == [
            "wide.weight",
            "narrow.weight",
        ]


class TestResidual:
    def test_post_norm_is_the_papers(self):
        residual, x = Residual(6), torch.randn(2, 3, 6)
        torch.testing.assert_close(residual(x, torch.sin), F.layer_norm(x + torch.sin(x), [6]))

    def test_pre_norm_leaves_a_clean_path(self):
        residual, x = Residual(6, norm_position="pre"), torch.randn(2, 3, 6)
        torch.testing.assert_close(residual(x, torch.sin), x + torch.sin(F.layer_norm(x, [6])))
        assert torch.equal(residual(x, torch.zeros_like), x)

    def test_dropout_falls_on_the_sublayer_alone(self):
        residual, x = Residual(6, norm_position="pre", dropout=0.5), torch.randn(50, 3, 6)
        change = residual(x, torch.ones_like) - x
        assert set(change.round(decimals=9).unique().tolist()) == {0.0, 2.0}
        torch.testing.assert_close(residual.eval()(x, torch.ones_like), x + 1)


def test_an_encoder_layer_is_two_sublayers(norm_position):
    layer, x = EncoderLayer(LayerConfig(**LAYER, norm_position=norm_position)), torch.randn(2, 5, 12)
    mask = padding_mask(torch.tensor([5, 3]))[:, None]
    first = layer.attention_residual(x, lambda x: layer.attention(x, x, x, mask)[0])
    torch.testing.assert_close(layer(x, mask), layer.feed_forward_residual(first, layer.feed_forward))


def test_padding_does_not_reach_real_positions(norm_position):
    layer, x = EncoderLayer(LayerConfig(**LAYER, norm_position=norm_position)), torch.randn(1, 5, 12)
    padded = torch.cat((x, torch.randn(1, 2, 12)), dim=1)
    mask = padding_mask(torch.tensor([5]), 7)[:, None]
    torch.testing.assert_close(layer(padded, mask)[:, :5], layer(x))
    assert not torch.allclose(layer(padded)[:, :5], layer(x))


def test_a_decoder_layer_is_three_sublayers(norm_position):
    layer, x, memory = (
        DecoderLayer(LayerConfig(**LAYER, norm_position=norm_position)),
        torch.randn(2, 4, 12),
        torch.randn(2, 5, 12),
    )
    memory_mask = padding_mask(torch.tensor([5, 3]))[:, None]
    first = layer.attention_residual(x, lambda x: layer.attention(x, x, x, causal_mask(4)[None])[0])
    second = layer.cross_attention_residual(first, lambda x: layer.cross_attention(x, memory, memory, memory_mask)[0])
    expected = layer.feed_forward_residual(second, layer.feed_forward)
    torch.testing.assert_close(layer(x, memory, memory_mask), expected)


def test_the_future_does_not_reach_the_past(norm_position):
    layer, x, memory = (
        DecoderLayer(LayerConfig(**LAYER, norm_position=norm_position)),
        torch.randn(2, 6, 12),
        torch.randn(2, 5, 12),
    )
    changed = x.clone()
    changed[:, 3:] = torch.randn(2, 3, 12)
    torch.testing.assert_close(layer(changed, memory)[:, :3], layer(x, memory)[:, :3])
    assert not torch.allclose(layer(changed, memory)[:, 3:], layer(x, memory)[:, 3:])


def test_a_target_padded_on_the_left():
    layer, x, memory = DecoderLayer(LayerConfig(**LAYER)), torch.randn(1, 4, 12), torch.randn(1, 5, 12)
    padded = torch.cat((torch.randn(1, 2, 12), x), dim=1)
    mask = padding_mask(torch.tensor([4]), 6).flip(1)[:, None]
    torch.testing.assert_close(layer(padded, memory, mask=mask)[:, 2:], layer(x, memory))


def test_layers_record_the_weights_of_every_head():
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    encoder_record, decoder_record, cross_record = [], [], []
    EncoderLayer(LayerConfig(**LAYER))(memory, record=encoder_record)
    DecoderLayer(LayerConfig(**LAYER))(x, memory, record=(decoder_record, cross_record))
    assert [weights.shape for weights in encoder_record] == [(2, 3, 5, 5)]
    assert [weights.shape for weights in decoder_record] == [(2, 3, 4, 4)]
    assert [weights.shape for weights in cross_record] == [(2, 3, 4, 5)]
    for weights in encoder_record + decoder_record + cross_record:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (decoder_record[0].triu(1) == 0).all()


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_precisions_and_devices(activation, norm_position, dtype, tolerance, device):
    options = {**LAYER, "activation": activation, "norm_position": norm_position}
    encoder, decoder = EncoderLayer(LayerConfig(**options)), DecoderLayer(LayerConfig(**options))
    x, y = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    mask = padding_mask(torch.tensor([5, 3]))[:, None]
    exact = decoder(y, encoder(x, mask), mask)
    encoder, decoder = encoder.to(device, dtype), decoder.to(device, dtype)
    x, y, mask = x.to(device, dtype), y.to(device, dtype), mask.to(device)
    rounded = decoder(y, encoder(x, mask), mask)
    assert rounded.dtype == dtype
    torch.testing.assert_close(rounded.double().cpu(), exact, atol=3 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", [EncoderLayer, DecoderLayer])
def test_each_dropout_is_its_own(kind):
    layer = kind(LayerConfig(**LAYER | {"dropout": 0.1}, attention_dropout=0.2, activation_dropout=0.3))
    assert layer.attention.dropout == 0.2
    assert layer.feed_forward.dropout.probability == 0.3
    residuals = [part for part in layer.children() if isinstance(part, Residual)]
    assert len(residuals) == (2 if kind is EncoderLayer else 3)
    assert {residual.dropout.probability for residual in residuals} == {0.1}


@pytest.mark.parametrize("kind", [EncoderLayer, DecoderLayer])
def test_bias_is_everywhere_or_nowhere(kind):
    assert not any(name.endswith("bias") for name, _ in kind(LayerConfig(**LAYER, bias=False)).named_parameters())
    linear_and_norms = [m for m in kind(LayerConfig(**LAYER)).modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    assert all(module.bias is not None for module in linear_and_norms)
