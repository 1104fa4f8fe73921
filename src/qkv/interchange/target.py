"""What a model can be exported to: the contract of a target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from qkv.decoding.engines.agreement import Searcher
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.tokenizer import Tokenizers


class Target(ABC):
    """Writes models for another program, and reads them as that program does, so that they can be checked.

    Attributes:
        title: what the program is called.
        tolerances: how weights can be stored, the usual way first; for each, how far a token's log-probability may be
            from the model's own on average, in nats. Stored as float32, greedy outputs must be the same, too.
        usage: Python that translates a sentence with what was written, whose directory it calls `path`.
    """

    title: ClassVar[str]
    tolerances: ClassVar[Mapping[str, float]] = {"float32": 0.001}
    usage: ClassVar[str]

    def refuse(self, model: Seq2Seq) -> None:  # noqa: B027  (most can run any)
        """Raise a `UserError` if the program cannot run such a model."""

    @abstractmethod
    def write(self, model: Seq2Seq, tokenizers: Tokenizers, directory: Path, quantization: str) -> None:
        """Fill a new directory with all that the program needs.

        Raises:
            UserError: if something is not installed.
        """

    @abstractmethod
    def read(self, model: Seq2Seq, tokenizers: Tokenizers, directory: Path, quantization: str) -> Searcher:
        """What `write` has written of the same, opened by the program: an `Engine`, or as much of one as is compared.

        Raises:
            UserError: if something is not installed, or the program does not take it.
        """


def write_tokenizers(tokenizers: Tokenizers, directory: Path) -> None:
    """Both sides as SentencePiece models: source.spm and target.spm."""
    for name, tokenizer in (("source.spm", tokenizers.source), ("target.spm", tokenizers.target)):
        (directory / name).write_bytes(tokenizer.to_bytes())
