"""Packed linear maps give what plain ones give, from whichever layout, and follow the weights they are made from."""

import pytest
import torch

from qkv.decoding.cpu import packing
from qkv.decoding.cpu.packing import PackedLinear, Packing
from qkv.decoding.cpu.quantization import quantize
from qkv.nn import Transformer, TransformerConfig


@pytest.fixture(autouse=True)
def single_precision(double_precision):
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def small():
    config = TransformerConfig(20, d_model=16, num_heads=2, d_ff=32, encoder_layers=1, decoder_layers=2)
    return Transformer(config).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2,), (1, 1), (5, 1), (2, 3), (16, 1), (17, 1), (4, 30)], ids=str)
@pytest.mark.parametrize("onednn", [True, False])
@torch.no_grad()
def test_a_linear_map(shape, bias, onednn, monkeypatch):
    if not onednn:
        monkeypatch.setattr(packing, "_blocked_product", lambda: None)
    linear, x = torch.nn.Linear(48, 40, bias=bias), torch.randn(*shape, 48)
    packed = PackedLinear(linear.weight, linear.bias)
    for _ in range(2):  # the second time from what was laid out the first time
        torch.testing.assert_close(packed(x), linear(x), atol=1e-5, rtol=1e-5)
    wanted = torch.tensor([7, 3, 3])
    torch.testing.assert_close(packed.rows(wanted)(x), linear(x)[..., wanted], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_part_of_a_stacked_matrix_is_laid_out_by_itself():
    stacked, x = torch.randn(12, 8), torch.randn(3, 8)
    torch.testing.assert_close(PackedLinear(stacked[4:8], None)(x), x @ stacked[4:8].T)
    torch.testing.assert_close(PackedLinear(stacked.T[:, :8].T, None)(x), x @ stacked[:8].T)


def outputs(model, source, target):
    with torch.inference_mode():
        return model(source, target)


def test_a_changed_weight_is_packed_anew(small):
    source, target, packing = torch.randint(20, (3, 5)), torch.randint(20, (3, 4)), Packing(small)
    first = packing.packed()
    assert first is not small
    torch.testing.assert_close(outputs(first, source, target), outputs(small, source, target))
    assert packing.packed() is first
    with torch.no_grad():
        small.decoder.layers[1].feed_forward.wide.weight.mul_(3.0)
    torch.testing.assert_close(outputs(packing.packed(), source, target), outputs(small, source, target))
    small.encoder.layers[0] = type(small)(small.config).encoder.layers[0].eval()
    torch.testing.assert_close(outputs(packing.packed(), source, target), outputs(small, source, target))
    small.load_state_dict({name: torch.randn_like(weight) for name, weight in small.state_dict().items()})
    torch.testing.assert_close(outputs(packing.packed(), source, target), outputs(small, source, target))


def test_only_single_precision_is_packed(small):
    packing = Packing(small)
    assert packing.packed() is not small
    small.double()
    assert packing.packed() is small
    small.float()
    assert packing.packed() is not small
    quantized = quantize(small)
    assert Packing(quantized).packed() is quantized


def test_the_model_is_shared_and_stays_as_it_is(small):
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    packed = Packing(small).packed()
    outputs(packed, torch.randint(20, (3, 5)), torch.randint(20, (3, 4)))
    assert all(torch.equal(weight, before[name]) for name, weight in small.state_dict().items())
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert packed.source_embedding.tokens.weight.data_ptr() == small.source_embedding.tokens.weight.data_ptr()
