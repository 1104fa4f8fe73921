"""Floor 1: everything that knows tensors. It imports torch alone and can be lifted out and used by itself."""

from qkv.nn.attention import MultiHeadAttention, attention
from qkv.nn.convolutional import ConvolutionalConfig, ConvolutionalSeq2Seq
from qkv.nn.embedding import (
    Embedding,
    LearnedPosition,
    RotaryPosition,
    SinusoidalPosition,
    TokenEmbedding,
    sinusoidal_position,
)
from qkv.nn.layers import DecoderLayer, EncoderLayer, FeedForward, LayerConfig, Residual
from qkv.nn.masks import causal_mask, combine_masks, padding_mask
from qkv.nn.norm import BatchNorm
from qkv.nn.recurrence import Recurrence
from qkv.nn.recurrent import RecurrentConfig, RecurrentSeq2Seq
from qkv.nn.recurrent_attention import AdditiveAttention, Alignment, DotAttention, GeneralAttention
from qkv.nn.seq2seq import AttentionRecord, Cache, Memory, Seq2Seq
from qkv.nn.transformer import Decoder, Encoder, Transformer, TransformerConfig

__all__ = [
    "AdditiveAttention",
    "Alignment",
    "AttentionRecord",
    "BatchNorm",
    "Cache",
    "ConvolutionalConfig",
    "ConvolutionalSeq2Seq",
    "Decoder",
    "DecoderLayer",
    "DotAttention",
    "Embedding",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GeneralAttention",
    "LayerConfig",
    "LearnedPosition",
    "Memory",
    "MultiHeadAttention",
    "Recurrence",
    "RecurrentConfig",
    "RecurrentSeq2Seq",
    "Residual",
    "RotaryPosition",
    "Seq2Seq",
    "SinusoidalPosition",
    "TokenEmbedding",
    "Transformer",
    "TransformerConfig",
    "attention",
    "causal_mask",
    "combine_masks",
    "padding_mask",
    "sinusoidal_position",
]
