"""What torch.nn's layers cannot do is refused, not converted to something that computes another result."""

import pytest

from qkv.interchange.torch_modules import to_torch
from qkv.nn import MultiHeadAttention, Transformer, TransformerConfig

SMALL = {"d_model": 8, "num_heads": 2, "d_ff": 12, "encoder_layers": 1, "decoder_layers": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_scores": False}, "always scales its scores"),
        ({"residual": False}, "always add their input"),
        ({"norm": "batch"}, "only LayerNorm with weights is converted"),
        ({"norm": "none"}, "only LayerNorm with weights is converted"),
        ({"norm": "none", "norm_position": "pre"}, "only LayerNorm with weights is converted"),
        ({"causal": False}, "a layer that looks ahead is not converted"),
    ],
)
def test_a_model_that_torch_lacks_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        to_torch(Transformer(TransformerConfig(11, **SMALL, **options)))


def test_attention_with_unscaled_scores_is_refused():
    with pytest.raises(ValueError, match="always scales its scores"):
        to_torch(MultiHeadAttention(8, 2, scale_scores=False))
