"""What the configurations of all architectures have in common: vocabularies, tying, and how they are checked."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

from torch import nn

from qkv.nn.embedding import TokenEmbedding

Tying = Literal["none", "target", "all"]


@runtime_checkable
class VocabularyOptions(Protocol):
    """The options that say how tokens enter a model and leave it."""

    @property
    def vocab_size(self) -> int:
        """Number of source tokens."""

    @property
    def target_vocab_size(self) -> int | None:
        """Number of target tokens; the source's if None."""

    @property
    def d_model(self) -> int:
        """Width of every token's vector."""

    @property
    def tie(self) -> Tying:
        """Which matrices are one."""


def check_options(
    options: VocabularyOptions, *, counts: Sequence[str], shares: Sequence[str], choices: Mapping[str, Sequence[str]]
) -> None:
    """Refuse impossible values.

    Args:
        options: an architecture's configuration.
        counts: names of whole numbers of at least 1 (or None).
        shares: names of probabilities.
        choices: for each name its allowed values.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """
    for name in ("vocab_size", "target_vocab_size", "d_model", *counts):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(options, name)}")
    for name, allowed in {"tie": get_args(Tying), **choices}.items():
        if getattr(options, name) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(options, name)!r}")
    for name in shares:
        if not 0.0 <= getattr(options, name) < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(options, name)}")
    if options.tie == "all" and options.target_vocab_size not in (None, options.vocab_size):
        raise ValueError(
            f"tie=all needs one vocabulary for both sides, but the source has {options.vocab_size} tokens "
            f"and the target {options.target_vocab_size}; use a joint tokenizer, or tie=target"
        )


def make_embeddings(options: VocabularyOptions) -> tuple[TokenEmbedding, TokenEmbedding]:
    """The tokens of source and target: one and the same if all are tied."""
    source = TokenEmbedding(options.vocab_size, options.d_model)
    if options.tie == "all":
        return source, source
    return source, TokenEmbedding(options.target_vocab_size or options.vocab_size, options.d_model)


def make_output(options: VocabularyOptions, target: TokenEmbedding) -> nn.Linear:
    """From hidden vectors to logits: tied to the target's embedding (Press & Wolf 2017) unless told otherwise."""
    output = nn.Linear(options.d_model, options.target_vocab_size or options.vocab_size, bias=False)
    if options.tie == "none":
        nn.init.normal_(output.weight, std=options.d_model**-0.5)
    else:
        output.weight = target.weight
    return output
