"""Encoder and decoder layers equal torch.nn's own, in outputs and in every gradient."""

import pytest
import torch
from same_function import (
    D_MODEL,
    LAYER,
    SOURCE,
    TARGET,
    as_keys,
    assert_same_function,
    converted,
    negated,
    torch_layer_options,
)
from torch import nn

from qkv.nn import DecoderLayer, EncoderLayer, LayerConfig, causal_mask, padding_mask


def test_encoder_layer(origin, activation_and_bias, norm_position, source_mask, causal):
    activation, bias = activation_and_bias
    options = {**LAYER, "dropout": 0.0, "activation": activation, "norm_position": norm_position, "bias": bias}
    ours, theirs = converted(
        origin,
        lambda: EncoderLayer(LayerConfig(**options)),
        lambda: nn.TransformerEncoderLayer(**torch_layer_options(activation, norm_position, bias)),
    )
    if causal:
        own_mask = causal_mask(SOURCE)[None] if source_mask is None else causal_mask(SOURCE) & source_mask[:, None]
    else:
        own_mask = as_keys(source_mask)
    assert_same_function(
        ours,
        theirs,
        lambda x: ours(x, own_mask),
        lambda x: theirs(x, ~causal_mask(SOURCE) if causal else None, src_key_padding_mask=negated(source_mask)),
        [torch.randn(2, SOURCE, D_MODEL)],
    )


@pytest.mark.parametrize(
    "target_mask", [None, padding_mask(torch.tensor([TARGET, 2]))], ids=["target-unpadded", "target-padded"]
)
def test_decoder_layer(origin, activation_and_bias, norm_position, source_mask, target_mask):
    activation, bias = activation_and_bias
    options = {**LAYER, "dropout": 0.0, "activation": activation, "norm_position": norm_position, "bias": bias}
    ours, theirs = converted(
        origin,
        lambda: DecoderLayer(LayerConfig(**options)),
        lambda: nn.TransformerDecoderLayer(**torch_layer_options(activation, norm_position, bias)),
    )
    assert_same_function(
        ours,
        theirs,
        lambda x, memory: ours(x, memory, as_keys(source_mask), mask=as_keys(target_mask)),
        lambda x, memory: theirs(
            x,
            memory,
            tgt_mask=~causal_mask(TARGET),
            tgt_key_padding_mask=negated(target_mask),
            memory_key_padding_mask=negated(source_mask),
        ),
        [torch.randn(2, TARGET, D_MODEL), torch.randn(2, SOURCE, D_MODEL)],
    )
