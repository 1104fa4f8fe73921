"""Characters that SentencePiece keeps for itself go through it in a guise, so that every text survives.

It ends texts with NUL, parts them by tabs or U+001F, writes "▁" for a space and "▅" for what is rare: it learns none of
these, nor the spellings of the special pieces. Each has a guise in plane 16 of Unicode, which is for private use; a
text that holds a guise itself has an escape before it.
"""

import re
from collections.abc import Sequence

CHARACTERS = ("\0", "\t", "\x1f", "▁", "▅")
SPELLINGS = ("<pad>", "<s>", "</s>", "<unk>")
_PLANE = 0x100000
_ESCAPE = chr(_PLANE + 0x1B)  # the guise of ASCII's escape


class Escape:
    """Texts in guise, and back: `shown(hidden(texts)) == texts` whatever they are; most stay as they are.

    Args:
        reserved: spellings whose first character goes in guise; without any, no text changes.
    """

    def __init__(self, reserved: Sequence[str] = ()) -> None:
        self.reserved = list(reserved)
        self._guises = {spelling[0]: chr(_PLANE + ord(spelling[0])) for spelling in reserved}
        self._characters = {guise: character for character, guise in self._guises.items()}
        self._hidden = [*self._characters, _ESCAPE] if reserved else []
        hidden, taken = "".join(self._hidden), [re.escape(s[0]) + f"(?={re.escape(s[1:])})" for s in reserved]
        self._to_hide = re.compile("|".join([*taken, f"[{hidden}]"])) if reserved else None
        self._to_show = re.compile(f"{_ESCAPE}([{hidden}]?)|[{hidden}]") if reserved else None

    def hidden(self, texts: Sequence[str]) -> Sequence[str]:
        """The texts as SentencePiece may see them."""
        if self._to_hide is None or not _any_of([*self.reserved, *self._hidden], texts):
            return texts
        return [self._to_hide.sub(lambda found: self._guises.get(found[0]) or _ESCAPE + found[0], t) for t in texts]

    def shown(self, texts: Sequence[str]) -> Sequence[str]:
        """The texts that were hidden; of others an escape that stands before no guise is left out."""
        if self._to_show is None or not _any_of(self._hidden, texts):
            return texts
        return [self._to_show.sub(lambda found: self._characters.get(found[0]) or found[1], t) for t in texts]


def _any_of(spellings: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether any is in the texts; nearly never, and to look for each in all of them at once takes no time."""
    return any(map("\n".join(texts).__contains__, spellings))
