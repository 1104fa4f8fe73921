"""What one side has and the other lacks is refused, not lost."""

import pytest
import torch
from same_function import D_FF, D_MODEL, HEADS, LAYER, config
from torch import nn

from qkv.interchange.torch_modules import from_torch, to_torch
from qkv.nn import Decoder, DecoderLayer, EncoderLayer, LayerConfig, MultiHeadAttention, Transformer


def layer_with(**parts) -> nn.TransformerDecoderLayer:
    """torch's layer with some of its parts replaced."""
    layer = nn.TransformerDecoderLayer(D_MODEL, HEADS, D_FF)
    for name, part in parts.items():
        setattr(layer, name, part)
    return layer


class TestWhatTheOtherLacks:
    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, kdim=8), "kdim"),
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, vdim=8), "vdim"),
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, add_bias_kv=True), "add_bias_kv"),
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, add_zero_attn=True), "add_zero_attn"),
            (lambda: nn.TransformerEncoderLayer(D_MODEL, HEADS, activation=torch.tanh), "tanh"),
            (lambda: nn.TransformerEncoderLayer(D_MODEL, HEADS, activation=nn.GELU("tanh")), "exact"),
            (lambda: nn.TransformerEncoderLayer(D_MODEL, HEADS, layer_norm_eps=1e-6), "1e-06"),
            (lambda: layer_with(norm2=nn.RMSNorm(D_MODEL)), "RMSNorm"),
            (lambda: layer_with(norm2=nn.LayerNorm(D_MODEL, elementwise_affine=False)), "LayerNorm with weights"),
            (lambda: layer_with(dropout2=nn.Dropout(0.5)), "different dropouts after sublayers"),
            (lambda: layer_with(self_attn=nn.MultiheadAttention(D_MODEL, 1, dropout=0.1)), "numbers of heads"),
            (lambda: layer_with(self_attn=nn.MultiheadAttention(D_MODEL, HEADS)), "dropouts in attention"),
            (lambda: layer_with(extra=nn.Linear(2, 2)), "extra.weight has no counterpart"),
            (
                lambda: nn.TransformerEncoder(
                    nn.TransformerEncoderLayer(D_MODEL, HEADS, batch_first=True), 2, nn.RMSNorm(D_MODEL), False
                ),
                "RMSNorm",
            ),
        ],
    )
    def test_in_qkv(self, module, message):
        with pytest.raises(ValueError, match=message):
            from_torch(module())

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (lambda: MultiHeadAttention(D_MODEL, 3, rotary=True), "rotary"),
            (lambda: EncoderLayer(LayerConfig(**LAYER, position="rotary")), "rotary"),
            (lambda: DecoderLayer(LayerConfig(**LAYER, position="rotary")), "rotary"),
            (lambda: EncoderLayer(LayerConfig(**LAYER, activation="swiglu")), "swiglu"),
            (lambda: Decoder(config(activation="swiglu")), "swiglu"),
            (lambda: Transformer(config(position="rotary")), "rotary"),
        ],
    )
    def test_in_torch(self, module, message):
        with pytest.raises(ValueError, match=message):
            to_torch(module())

    @pytest.mark.parametrize("convert", [to_torch, from_torch])
    def test_other_modules(self, convert):
        with pytest.raises(TypeError, match="no counterpart of Linear"):
            convert(nn.Linear(2, 2))
