"""Multi-head attention equals torch.nn.MultiheadAttention, in outputs and in every gradient."""

import pytest
import torch
from same_function import CLOSE, D_MODEL, HEADS, SOURCE, TARGET, as_keys, assert_same_function, converted, negated
from torch import nn

from qkv.nn import MultiHeadAttention, causal_mask


class TestMultiHeadAttention:
    @staticmethod
    def pair(origin: str, bias: bool = True) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
        return converted(
            origin,
            lambda: MultiHeadAttention(D_MODEL, HEADS, bias=bias),
            lambda: nn.MultiheadAttention(D_MODEL, HEADS, bias=bias, batch_first=True),
        )

    @pytest.mark.parametrize("bias", [True, False])
    def test_self_attention(self, origin, bias, source_mask, causal):
        ours, theirs = self.pair(origin, bias)
        attn_mask = ~causal_mask(SOURCE) if causal else None
        assert_same_function(
            ours,
            theirs,
            lambda x: ours(x, mask=as_keys(source_mask), causal=causal)[0],
            lambda x: theirs(x, x, x, key_padding_mask=negated(source_mask), attn_mask=attn_mask)[0],
            [torch.randn(2, SOURCE, D_MODEL)],
        )

    def test_query_key_and_value_apart(self, origin, source_mask):
        ours, theirs = self.pair(origin)
        assert_same_function(
            ours,
            theirs,
            lambda query, key, value: ours(query, key, value, as_keys(source_mask))[0],
            lambda query, key, value: theirs(query, key, value, key_padding_mask=negated(source_mask))[0],
            [torch.randn(2, length, D_MODEL) for length in (TARGET, SOURCE, SOURCE)],
        )

    def test_a_mask_of_its_own_for_each_query(self, origin):
        ours, theirs = self.pair(origin)
        mask = torch.rand(2, TARGET, SOURCE) < 0.6
        mask[:, :, 0] = True  # torch's queries must see something
        assert_same_function(
            ours,
            theirs,
            lambda query, memory: ours(query, memory, mask=mask)[0],
            lambda query, memory: theirs(query, memory, memory, attn_mask=~mask.repeat_interleave(HEADS, 0))[0],
            [torch.randn(2, TARGET, D_MODEL), torch.randn(2, SOURCE, D_MODEL)],
        )

    def test_the_weights_of_every_head(self, origin, source_mask, causal):
        ours, theirs = self.pair(origin)
        x = torch.randn(2, SOURCE, D_MODEL)
        _, weights = ours(x, mask=as_keys(source_mask), causal=causal, return_weights=True)
        _, expected = theirs(
            x,
            x,
            x,
            key_padding_mask=negated(source_mask),
            attn_mask=~causal_mask(SOURCE) if causal else None,
            need_weights=True,
            average_attn_weights=False,
        )
        torch.testing.assert_close(weights, expected, **CLOSE)

    def test_the_path_with_weights_has_the_same_gradients(self, origin, source_mask):
        ours, theirs = self.pair(origin)
        assert_same_function(
            ours,
            theirs,
            lambda x: ours(x, mask=as_keys(source_mask), return_weights=True)[0],
            lambda x: theirs(x, x, x, key_padding_mask=negated(source_mask))[0],
            [torch.randn(2, SOURCE, D_MODEL)],
        )
