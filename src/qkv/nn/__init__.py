"""Floor 1: everything that knows tensors. It imports torch alone and can be lifted out and used by itself."""

from qkv.nn.attention import MultiHeadAttention, attention
from qkv.nn.embedding import (
    Embedding,
    LearnedPosition,
    RotaryPosition,
    SinusoidalPosition,
    TokenEmbedding,
    sinusoidal_position,
)
from qkv.nn.layers import DecoderLayer, EncoderLayer, FeedForward, Residual
from qkv.nn.masks import causal_mask, combine_masks, padding_mask
from qkv.nn.seq2seq import AttentionRecord, Memory, Seq2Seq, State
from qkv.nn.transformer import Decoder, Encoder, Transformer, TransformerConfig

__all__ = [
    "AttentionRecord",
    "Decoder",
    "DecoderLayer",
    "Embedding",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "LearnedPosition",
    "Memory",
    "MultiHeadAttention",
    "Residual",
    "RotaryPosition",
    "Seq2Seq",
    "SinusoidalPosition",
    "State",
    "TokenEmbedding",
    "Transformer",
    "TransformerConfig",
    "attention",
    "causal_mask",
    "combine_masks",
    "padding_mask",
    "sinusoidal_position",
]
