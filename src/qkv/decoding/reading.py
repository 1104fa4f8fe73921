"""What a model reads of a text: its tokens, and what is lost on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from qkv.errors import FaultyItems
from qkv.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reading:
    """Texts as a model reads them.

    Attributes:
        texts: as they were given.
        ids: of each, with eos.
        cut: for the index of each that was too long and was cut, how many tokens it had.
        tokenizer: has made the ids of the texts.
    """

    texts: Sequence[str]
    ids: list[list[int]]
    cut: dict[int, int]
    tokenizer: Tokenizer

    @classmethod
    def of(
        cls, texts: Sequence[str], tokenizer: Tokenizer, longest: int | None, *, cut: bool, side: str, why: str
    ) -> "Reading":
        """Encode texts of a side, of which none may have more than `longest` tokens: else it is cut, or told `why`.

        Raises:
            FaultyItems: if some are too long and not to be cut.
        """
        ids = [[*tokens, tokenizer.eos] for tokens in tokenizer.encode(texts)]
        long: dict[int, int] = {}
        if longest is not None:
            long = {index: len(tokens) for index, tokens in enumerate(ids) if len(tokens) > longest}
            if long and not cut:
                raise FaultyItems(side, {index: f"has {tokens} tokens, but {why}" for index, tokens in long.items()})
            for index in long:
                ids[index] = [*ids[index][: longest - 1], tokenizer.eos]
        return cls(texts, ids, long, tokenizer)

    @cached_property
    def unknown(self) -> dict[int, list[str]]:
        """For the index of each text with symbols that the model does not know, these, in order."""
        found = (index for index, ids in enumerate(self.ids) if self.tokenizer.unk in ids)
        return {index: self.tokenizer.unknown(self.texts[index]) for index in found}

    def symbols(self, index: int) -> list[str]:
        """What each token of a text stands for."""
        unknown = iter(self.unknown.get(index, ()))
        known = self.tokenizer.decode([[token] for token in self.ids[index]])
        pairs = zip(self.ids[index], known, strict=True)
        return [next(unknown) if token == self.tokenizer.unk else text for token, text in pairs]
