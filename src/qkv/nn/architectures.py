"""The architectures by name: what a recipe's `model.architecture` may say."""

from dataclasses import dataclass, fields
from typing import Any

from qkv.nn.seq2seq import Seq2Seq
from qkv.nn.transformer import PRESETS, Transformer, TransformerConfig


@dataclass(frozen=True)
class Architecture:
    """An architecture's configuration, its model and its presets.

    Attributes:
        config: a dataclass with, among others, `vocab_size`, `target_vocab_size` and `longest`.
        model: built from such a configuration.
        presets: named settings of the configuration.
    """

    config: type[Any]
    model: type[Any]
    presets: dict[str, dict[str, Any]]

    def option_names(self) -> list[str]:
        """What may be set, apart from the vocabulary sizes, which come from the tokenizer."""
        return [f.name for f in fields(self.config) if f.name not in ("vocab_size", "target_vocab_size")]

    def build(self, config: Any) -> Seq2Seq:
        """A freshly initialised model."""
        model: Seq2Seq = self.model(config)
        return model


ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(TransformerConfig, Transformer, PRESETS),
}
