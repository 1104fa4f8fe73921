"""What a recipe says about the tokenizers; `qkv.text.tokenizer` learns them."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from qkv.settings import OneOf, Section

KINDS = ("unigram", "bpe", "char", "word")
UNAMBIGUOUS = ("char", "word")  # there is one way to cut a text into these
SPACES = ("collapse", "keep")
NORMALIZATIONS = ("identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")
SIDES: tuple[Literal["source", "target"], ...] = ("source", "target")
SPECIALS = 4  # pad, bos, eos, unk

Kind = Annotated[str, OneOf("kind", KINDS)]
VocabSize = Annotated[int, Field(gt=SPECIALS)]
Spaces = Annotated[str, OneOf("spaces", SPACES)]
Normalization = Annotated[str, OneOf("normalization", NORMALIZATIONS)]
Coverage = Annotated[float, Field(gt=0, le=1)]


class SideSettings(Section):
    """What one side's tokenizer does differently; needs joint: false."""

    kind: Kind | None = Field(None, description="see tokenizer.kind")
    vocab_size: VocabSize | None = Field(None, description="see tokenizer.vocab_size")
    spaces: Spaces | None = Field(None, description="see tokenizer.spaces")
    normalization: Normalization | None = Field(None, description="see tokenizer.normalization")
    character_coverage: Coverage | None = Field(None, description="see tokenizer.character_coverage")


class TokenizerSettings(Section):
    """How text becomes tokens: SentencePiece, learnt from the training pairs."""

    kind: Kind = Field("unigram", description="what a token is: a learnt piece of words, a character, a word")
    vocab_size: VocabSize = Field(8000, description="tokens at most, special ones included")
    joint: bool = Field(True, description="one vocabulary for both sides")
    sampling: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="subword sampling while training: BPE-dropout probability, or smoothing alpha of unigram (try 0.1)",
    )
    spaces: Spaces | None = Field(
        None,
        description="several spaces in a row, and those at the ends: one and none, or kept as they are; null: kept by "
        "char, collapsed by the others",
    )
    normalization: Normalization = Field("identity", description="Unicode normalisation (…_cf also folds case)")
    character_coverage: Coverage = Field(1.0, description="share of characters kept; less drops rare ones")
    source: SideSettings | None = Field(None, description="what the source side does differently (joint: false)")
    target: SideSettings | None = Field(None, description="what the target side does differently (joint: false)")

    @model_validator(mode="after")
    def _fit_together(self) -> "TokenizerSettings":
        if self.joint and (_said(self.source) or _said(self.target)):
            raise ValueError("settings for one side need joint: false")
        kinds = [self.kind] if self.joint else [self.side("source").kind, self.side("target").kind]
        if self.sampling > 0.0 and set(kinds) <= {*UNAMBIGUOUS}:
            raise ValueError("sampling needs kind 'unigram' or 'bpe'; the others cut in one way only")
        return self

    def side(self, name: Literal["source", "target"]) -> "TokenizerSettings":
        """What the tokenizer of one side is learnt with, its own values filled in."""
        # One tokenizer, so "joint"; and sampling plays no part in learning.
        return self.changed(joint=True, sampling=0.0, source=None, target=None, **_said(getattr(self, name)))

    @property
    def keeps_spaces(self) -> bool:
        """Whether texts keep all their spaces; a sequence of characters does if nothing is said."""
        return self.spaces == "keep" or (self.spaces is None and self.kind == "char")

    @property
    def covers_all(self) -> bool:
        """Whether every character is to be known, so that no text learnt from has an unknown token."""
        return self.kind != "word" and self.character_coverage == 1.0


def _said(side: SideSettings | None) -> dict[str, Any]:
    return {} if side is None else side.model_dump(exclude_none=True)
