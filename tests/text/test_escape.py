"""Characters that SentencePiece keeps for itself: hidden from it, and shown again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.text.escape import CHARACTERS, SPELLINGS, Escape

RESERVED = [*CHARACTERS, *SPELLINGS]
ESCAPE = Escape(RESERVED)
GUISES = [hidden[0] for hidden in ESCAPE.hidden(RESERVED)]
TEXTS = st.lists(
    st.sampled_from([*RESERVED, *GUISES, "\U0010001b", "<", ">", "s", "a", " "])
    | st.characters(exclude_categories=["Cs"])
).map("".join)


@given(texts=st.lists(TEXTS))
def test_what_is_hidden_is_shown_again(texts):
    hidden = ESCAPE.hidden(texts)
    assert ESCAPE.shown(hidden) == texts
    assert not any(spelling in text for spelling in RESERVED for text in hidden)


@given(text=TEXTS)
def test_whatever_a_model_writes_can_be_shown(text):
    shown = ESCAPE.shown([text])
    assert ESCAPE.shown(ESCAPE.hidden(shown)) == shown
    shown[0].encode("utf-8")  # no lone surrogate


@pytest.mark.parametrize("text", ["", "plain", "<b>", "s>", "⁇", "\U0010ffff", "x\r\n"])
def test_a_text_without_any_is_left_alone(text):
    assert ESCAPE.hidden([text, "<s>"])[0] == text == ESCAPE.shown([text, GUISES[0]])[0]


@given(text=TEXTS)
def test_without_reserved_spellings_nothing_changes(text):
    """So it was with tokenizers that were learnt before."""
    assert Escape().hidden([text]) == [text] == Escape().shown([text])


def test_a_guise_is_one_character():
    assert list(map(len, ESCAPE.hidden(CHARACTERS))) == [1] * len(CHARACTERS)
    assert ESCAPE.hidden(["a<s>"]) == ["a\U0010003cs>"]
