"""There and back again: what is converted twice is what it was."""

import pytest
import torch
from same_function import CLOSE, D_FF, D_MODEL, HEADS, LAYER, SOURCE, config, randomised, torch_transformer
from torch import nn

from qkv.interchange.torch_modules import from_torch, to_torch
from qkv.nn import Decoder, DecoderLayer, Encoder, EncoderLayer, LayerConfig, MultiHeadAttention

THEIRS = {
    "attention": lambda: nn.MultiheadAttention(D_MODEL, HEADS, dropout=0.2, batch_first=True),
    "encoder layer": lambda: nn.TransformerEncoderLayer(
        D_MODEL, HEADS, D_FF, dropout=0.2, activation="gelu", batch_first=True
    ),
    "decoder layer": lambda: nn.TransformerDecoderLayer(
        D_MODEL, HEADS, D_FF, dropout=0.2, norm_first=True, bias=False, batch_first=True
    ),
    "transformer": lambda: torch_transformer(dropout=0.2),
}
OURS = {
    "attention": lambda: MultiHeadAttention(D_MODEL, HEADS, dropout=0.2),
    "encoder layer": lambda: EncoderLayer(
        LayerConfig(**LAYER, dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, norm_position="pre")
    ),
    "decoder layer": lambda: DecoderLayer(
        LayerConfig(**LAYER, dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, activation="gelu")
    ),
    "encoder": lambda: Encoder(config(dropout=0.3)),
    "decoder": lambda: Decoder(config(norm_position="pre")),
}


def assert_same_module(one: nn.Module, other: nn.Module) -> None:
    """The same structure, options (as they are printed) and weights, but no storage in common."""
    assert str(one) == str(other)
    assert one.training == other.training
    weights, other_weights = one.state_dict(), other.state_dict()
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name])
        assert weight.dtype == other_weights[name].dtype
        assert weight.data_ptr() != other_weights[name].data_ptr()


def attention_dropouts(module: nn.Module) -> list[float]:
    return [m.dropout for m in module.modules() if isinstance(m, MultiHeadAttention | nn.MultiheadAttention)]


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_from_torch(name, dtype):
    module = randomised(THEIRS[name]()).to(dtype).eval()
    again = to_torch(from_torch(module))
    assert type(again) is type(module)
    assert_same_module(again, module)
    assert attention_dropouts(again) == attention_dropouts(module)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_from_qkv(name, dtype):
    module = randomised(OURS[name]()).to(dtype)
    again = from_torch(to_torch(module))
    assert type(again) is type(module)
    assert_same_module(again, module)
    assert attention_dropouts(again) == attention_dropouts(module)


def test_a_module_that_takes_the_batch_second_has_the_same_weights():
    theirs = randomised(nn.MultiheadAttention(D_MODEL, HEADS, batch_first=False))
    x = torch.randn(2, SOURCE, D_MODEL)
    expected = theirs(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(from_torch(theirs)(x)[0], expected, **CLOSE)


def test_converting_draws_no_random_numbers():
    module = torch_transformer()
    before = torch.get_rng_state()
    to_torch(from_torch(module))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_weights_stay_on_their_device():
    module = from_torch(torch_transformer().cuda())
    assert all(parameter.is_cuda for stack in module for parameter in stack.parameters())
