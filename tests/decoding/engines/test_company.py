"""What a line's answer is does not depend on the lines beside it: for every engine, precision, beam and shortlist."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
from qkv.errors import UserError

pytestmark = pytest.mark.usefixtures("without_shape_checks")

WORDS = 24
MAY_DIFFER = {"float32": 0.0, "int8": 0.03, "bf16": 0.25}
"""The share that may, as sums are made in another order in another batch; see docs/guides/translating.md."""


@pytest.fixture(autouse=True)
def few_on_every_shortlist(monkeypatch):
    """Else all of these few tokens would be."""
    monkeypatch.setattr("qkv.decoding.shortlist._FREQUENT", 2)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("shortlist", [None, 3])
@pytest.mark.parametrize(
    ("engine", "precision"),
    [*product(["torch", "ctranslate2"], ["float32", "int8", "bf16"]), ("auto", "float32"), ("auto", "int8")],
)
def test_many_equal_each_alone(engine, precision, shortlist, beam, doubtful, doubtful_words):
    if engine == "ctranslate2":
        pytest.importorskip("ctranslate2")
    try:
        translator = qkv.load(doubtful("char"), device="cpu", engine=engine, precision=precision, shortlist=shortlist)
    except UserError as error:
        assert "cannot compute in" in str(error)  # noqa: PT017  (this machine lacks it)
        return
    words = doubtful_words[:WORDS]
    alone = {word: translator.translate(word, beam=beam) for word in words}
    seen = differing = 0

    @settings(max_examples=3, deadline=None, database=None, derandomize=True)
    @given(st.lists(st.sampled_from(words), min_size=WORDS // 2, max_size=WORDS, unique=True))
    def compare(company):
        nonlocal seen, differing
        found = translator.translate(company, beam=beam)
        seen += len(company)
        differing += sum(alone[word] != text for word, text in zip(company, found, strict=True))

    compare()
    share = MAY_DIFFER[precision] if translator.engine.name == "torch" or shortlist is None else 0.3
    assert differing <= share * seen, f"{differing} of {seen}"
