"""The architectures by name: what a recipe's `model.architecture` may say."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qkv.nn import convolutional, recurrent, transformer
from qkv.nn.convolutional import ConvolutionalConfig, ConvolutionalSeq2Seq
from qkv.nn.recurrence import Cell
from qkv.nn.recurrent import RecurrentConfig, RecurrentSeq2Seq
from qkv.nn.seq2seq import Seq2Seq
from qkv.nn.transformer import Transformer, TransformerConfig
from qkv.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """An architecture's configuration, its model and its presets.

    Attributes:
        config: a dataclass with, among others, `vocab_size`, `target_vocab_size`, `d_model`, `tie` and `longest`.
        model: built from such a configuration.
        presets: named settings of the configuration.
        implied: settings that the architecture's name stands for, and that cannot be changed.
    """

    config: type[Any]
    model: type[Any]
    presets: Mapping[str, Mapping[str, Any]]
    implied: Mapping[str, Any] = field(default_factory=dict)

    def option_names(self) -> list[str]:
        """What may be set, apart from the vocabulary sizes, which come from the tokenizer."""
        fixed = {"vocab_size", "target_vocab_size", *self.implied}
        return [f.name for f in fields(self.config) if f.name not in fixed]

    def build(self, config: Any) -> Seq2Seq:
        """A freshly initialised model."""
        model: Seq2Seq = self.model(config)
        return model


def _recurrent(cell: Cell, **implied: Any) -> Architecture:
    return Architecture(RecurrentConfig, RecurrentSeq2Seq, recurrent.PRESETS[cell], {"cell": cell, **implied})


_FIXED_CONTEXT = {"attention": "none", "input_feeding": False}

ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    {
        "transformer": Architecture(TransformerConfig, Transformer, transformer.PRESETS),
        "convolutional": Architecture(ConvolutionalConfig, ConvolutionalSeq2Seq, convolutional.PRESETS),
        "rnn": _recurrent("rnn", **_FIXED_CONTEXT),
        "gru": _recurrent("gru", **_FIXED_CONTEXT),
        "lstm": _recurrent("lstm", **_FIXED_CONTEXT),
        "rnn-attention": _recurrent("rnn"),
        "gru-attention": _recurrent("gru"),
        "lstm-attention": _recurrent("lstm"),
    },
)
"""The Transformer comes first, as recipes mean it unless they say otherwise; then its ancestors, the nearest first."""
