"""Evaluation: what is translated, how often, and what it is held against. A translator of upper case stands in."""

import pytest

from qkv.errors import UserError
from qkv.evaluation.evaluate import evaluate
from qkv.text.corpus import Pair, PairFiles
from qkv.translator import Translator


class UpperCase(Translator):
    """Remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def translate(self, sources, **options):
        self.asked.append((sources, options))
        return [source.upper() for source in sources]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "test.tsv").write_text("a b\tA B\nc d\tC X\na b\tB A\n\t\n")
    return PairFiles(path=tmp_path / "test.tsv")


def test_a_source_that_repeats_is_translated_once(files):
    translator = UpperCase()
    result = evaluate(translator, files, ["wer", "chrf"], beam=3, length_penalty=0.5)
    assert translator.asked == [(["a b", "c d", ""], {"beam": 3, "length_penalty": 0.5, "progress": False})]
    assert result.pairs == [Pair("a b", "A B"), Pair("c d", "C X"), Pair("a b", "B A"), Pair("", "")]
    assert result.outputs == ["A B", "C D", "A B", ""]
    assert result.scores["wer"].value == pytest.approx(100 / 3)
    assert list(result.scores) == ["wer", "chrf"]


def test_nothing_is_translated_for_an_unknown_metric(files):
    translator = UpperCase()
    with pytest.raises(UserError, match="unknown metric 'wire'"):
        evaluate(translator, files, ["per", "wire"])
    assert translator.asked == []


def test_pairs_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.tsv: no such file"):
        evaluate(UpperCase(), PairFiles(path=tmp_path / "nowhere.tsv"), ["per"])
