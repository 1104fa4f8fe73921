"""By which words BLEU counts, and what is said of it."""

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.metrics import compute_for_pairs, settle, tokenization
from qkv.metrics.tokenization import TOKENIZERS, by_script, choose
from qkv.metrics.translation import BLEU

ENGLISH = "A man is sleeping in a green chair."
CHINESE = "一个男人在绿色的椅子上睡觉。"
JAPANESE = "男の人が緑色の椅子で寝ています。"
KOREAN = "한 남자가 초록색 의자에서 자고 있다."
THAI = "ชายคนหนึ่งกำลังนอนหลับอยู่บนเก้าอี้สีเขียว"
RUSSIAN = "Мужчина спит в зелёном кресле."


@pytest.mark.parametrize(
    ("line", "name"),
    [(ENGLISH, "13a"), (RUSSIAN, "13a"), (CHINESE, "zh"), (JAPANESE, "ja-mecab"), (KOREAN, "ko-mecab"), (THAI, "char")],
)
def test_the_script_tells(line, name):
    assert by_script([line] * 3) == name
    assert by_script([line] * 3 + [ENGLISH[:9]]) == name, "a name or two in Latin letters changes nothing"
    assert by_script([]) == by_script(["", "12 . !"]) == "13a"


@given(st.lists(st.text(max_size=20), max_size=5), st.none() | st.sampled_from(TOKENIZERS))
@settings(deadline=None)
def test_whatever_the_references_there_is_a_tokenizer_that_works(references, said):
    """Of every plane of Unicode; and what falls back says so."""
    name, remark = choose(said, references)
    score = BLEU(references or ["a"], [[reference] for reference in references or ["a"]], tokenize=name)
    assert 0.0 <= score.value <= 100.1
    assert (remark is None) == (name == said or (said is None and name == "13a"))


def test_bleu_of_chinese_counts_more_than_whole_lines():
    """By 13a a line without spaces is one word, right or wrong."""
    output = CHINESE.replace("绿", "红")
    pairs, outputs = [("s", CHINESE)], {"s": output}
    settings, remarks = settle(["bleu", "chrf"], pairs)
    found = compute_for_pairs(["bleu"], pairs, outputs, settings)["bleu"]
    expected = sacrebleu.corpus_bleu([output], [[CHINESE]], tokenize="zh")
    assert found.value == expected.score > 50
    assert "tok:zh" in found.signature
    assert remarks == [
        "bleu counts words by sacreBLEU's zh, for the script of the references; evaluation.bleu_tokenize says otherwise"
    ]
    settings, remarks = settle(["bleu"], pairs, "13a")
    assert remarks[0].startswith("bleu counts runs of 4 words, and none of 1 references has so many (words by 13a)")
    assert compute_for_pairs(["bleu"], pairs, outputs, settings)["bleu"].value == 0
    assert settle(["chrf"], pairs) == ({}, [])


@pytest.mark.parametrize(("name", "needs"), [("ja-mecab", "sacrebleu[ja]"), ("flores200", "--tokenize flores200")])
def test_what_is_not_here_falls_back_to_characters_and_says_so(monkeypatch, name, needs):
    monkeypatch.setattr(tokenization, "_is_here", lambda name: not name.startswith(("ja", "ko", "flores")))
    settings, (remark,) = settle(["bleu"], [("s", JAPANESE)], name)
    assert settings == {"bleu": {"tokenize": "char"}}
    assert remark.startswith(f"bleu counts characters (char): {name}, as evaluation.bleu_tokenize says, is not here")
    assert needs in remark
    _, (remark,) = settle(["bleu"], [("s", JAPANESE)])
    assert remark.startswith("bleu counts characters (char): ja-mecab, for the script of the references, is not here")


def test_nothing_is_said_where_nothing_was_chosen():
    assert settle(["bleu"], [("s", ENGLISH)]) == ({"bleu": {"tokenize": "13a"}}, [])
    assert settle(["bleu"], [("s", ENGLISH)], "intl") == ({"bleu": {"tokenize": "intl"}}, [])
    assert settle(["bleu"], []) == ({}, [])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(deadline=None)
def test_references_shorter_than_what_bleu_counts_are_told_of(lengths):
    """And truly so: outputs that are all right come to 0."""
    references = [" ".join("abcdef"[:length]) for length in lengths]
    pairs = [(str(number), reference) for number, reference in enumerate(references)]
    settings, remarks = settle(["bleu"], pairs)
    right = compute_for_pairs(["bleu"], pairs, dict(pairs), settings)["bleu"].value
    assert (right == 0) == bool(remarks) == (max(lengths) < 4)


def test_blank_sources_are_told_of():
    pairs = [("a", "x y z v"), (" \u00a0", "b"), ("", "")]
    assert settle(["cer"], pairs)[1] == ["2 of 3 sources are blank, the first in pair 2: so is the output"]
    assert settle([], pairs) == ({}, [])
