"""A quantised model is close to the model, and leaves it alone."""

import pytest
import torch

from qkv.decoding.cpu.linear_maps import Stack
from qkv.decoding.cpu.quantization import QuantizedLinear, quantize
from qkv.nn import Transformer, TransformerConfig


@pytest.fixture(autouse=True)
def single_precision(double_precision):
    torch.set_default_dtype(torch.float32)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map(bias):
    linear, x = torch.nn.Linear(64, 48, bias=bias), torch.randn(3, 5, 64)
    with torch.no_grad():
        linear.weight[0] *= 100  # a channel's scale is its own
        found, expected = QuantizedLinear(linear.weight, linear.bias)(x), linear(x)
    assert found.shape == expected.shape
    assert relative_error(found[..., 1:], expected[..., 1:]) < 0.02
    rows = torch.tensor([7, 3, 3])
    part = QuantizedLinear(linear.weight, linear.bias).rows(rows)
    torch.testing.assert_close(part(x), found[..., rows])


@pytest.mark.parametrize("position", ["sinusoidal", "rotary"])
@pytest.mark.parametrize("norm_position", ["post", "pre"])
@torch.no_grad()
def test_a_model(position, norm_position):
    config = TransformerConfig(
        50, d_model=64, num_heads=4, d_ff=128, encoder_layers=2, decoder_layers=2,
        position=position, norm_position=norm_position, activation="swiglu",
    )  # fmt: skip
    model = Transformer(config).eval()
    source, target = torch.randint(50, (4, 7)), torch.randint(50, (4, 6))
    expected = model(source, target)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    quantized = quantize(model)
    assert relative_error(quantized(source, target), expected) < 0.05
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert torch.equal(model(source, target), expected)
    exact = [m for m in quantized.modules() if type(m) is torch.nn.Linear]
    assert not exact
    assert sum(isinstance(m, Stack) for m in quantized.modules()) == 6

    memory, state = quantized.encode(source), None
    state = quantized.start(memory)
    steps = torch.cat([quantized.decode(target[:, i : i + 1], memory, state) for i in range(6)], dim=1)
    assert relative_error(steps, model.decode(target, model.encode(source))) < 0.05


def test_it_takes_no_copy_of_what_it_shares():
    model = Transformer(TransformerConfig(50, d_model=16, num_heads=2, d_ff=32, encoder_layers=1, decoder_layers=1))
    quantized = quantize(model)
    assert quantized.source_embedding.tokens.weight.data_ptr() == model.source_embedding.tokens.weight.data_ptr()
