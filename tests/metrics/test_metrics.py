import logging

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.metrics import METRICS, compute, compute_for_pairs
from qkv.metrics.contract import Metric
from qkv.metrics.transcription import CER, EXACT_MATCH, PER, RESIDUES, WER
from qkv.metrics.translation import BLEU, CHRF, TER
from qkv.registry import Registry

ENGLISH = ["The cat sat on the mat.", "It isn't raining, is it?", "Two men play chess in the park."]
REFERENCES = [
    ["The cat sat upon the mat.", "A cat sat on the mat."],
    ["It isn't raining, or is it?", "It is not raining, is it?"],
    ["Two men are playing chess in a park.", "Two men play chess in the park."],
]
TRANSPOSED = [[own[i] for own in REFERENCES] for i in range(2)]

# Three words: right by the second reference; one phone of four wrong; a phone too many after three.
SAID = ["T AH M AA T OW", "L AY V Z", "K AE T S"]
PHONES = [["T AH M EY T OW", "T AH M AA T OW"], ["L IH V Z", "L IH V D"], ["K AE T"]]

symbols = st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(" ".join)
corpora = st.lists(st.tuples(symbols, st.lists(symbols, min_size=1, max_size=3)), min_size=1, max_size=5)


def test_bleu_equals_sacrebleu_with_its_signature():
    score = BLEU(ENGLISH, REFERENCES)
    assert score.value == sacrebleu.corpus_bleu(ENGLISH, TRANSPOSED).score
    assert 0 < score.value < 100
    assert "nrefs:2|case:mixed" in score.signature
    assert "tok:13a" in score.signature
    assert f"version:{sacrebleu.__version__}" in score.signature


def test_bleu_without_tokenisation_and_case_differs_as_sacrebleus_does():
    tokenised = ["the Cat sat on the mat ."]
    references = [["the cat sat on the mat today ."]]
    score = BLEU(tokenised, references, tokenize="none", lowercase=True)
    expected = sacrebleu.corpus_bleu(tokenised, [["the cat sat on the mat today ."]], tokenize="none", lowercase=True)
    assert score.value == expected.score
    assert score.value > BLEU(tokenised, references, tokenize="none").value
    assert "case:lc" in score.signature
    assert "tok:none" in score.signature


def test_bleu_of_tokenised_text_warns_unless_it_was_asked_for(caplog):
    tokenised = ["a cat sat on the mat ."] * 100
    with caplog.at_level(logging.WARNING):
        BLEU(tokenised, [[line] for line in tokenised], tokenize="none")
        assert not caplog.records
        BLEU(tokenised, [[line] for line in tokenised])
        assert "tokenized period" in caplog.text


def test_chrf_equals_sacrebleu():
    score = CHRF(ENGLISH, REFERENCES)
    assert score.value == sacrebleu.corpus_chrf(ENGLISH, TRANSPOSED).score
    assert "nc:6|nw:0" in score.signature


def test_ter_equals_sacrebleu_and_is_better_when_lower():
    score = TER(ENGLISH, REFERENCES)
    assert score.value == sacrebleu.corpus_ter(ENGLISH, TRANSPOSED).score
    assert not score.higher_is_better


@pytest.mark.parametrize("metric", [BLEU, CHRF, TER])
def test_sources_may_differ_in_their_number_of_references(metric):
    one, two = REFERENCES[0][:1], REFERENCES[1]
    score = metric(ENGLISH[:2], [one, two])
    # A reference given twice says nothing new.
    assert score.value == metric(ENGLISH[:2], [one * 2, two]).value
    assert "nrefs:var" in score.signature


def test_wer_counts_a_word_wrong_when_no_reference_equals_it():
    score = WER(SAID, PHONES)
    assert score.value == pytest.approx(100 * 2 / 3)
    assert not score.higher_is_better
    assert score.signature is None


def test_per_counts_edits_to_the_closest_reference():
    # 0 edits of 6 phones, 1 of 4, 1 of 3.
    assert PER(SAID, PHONES).value == pytest.approx(100 * 2 / 13)


def test_per_on_sentences_is_the_WER_of_speech_recognition():
    # "a" for "the", "down" inserted, "mat" left out: 3 edits in 6 words.
    score = PER(["a cat sat down on the"], [["the cat sat on the mat"]])
    assert score.value == pytest.approx(100 * 3 / 6)


def test_per_takes_the_longest_of_equally_close_references_in_any_order():
    # "a b" is one edit from "a" and from "a b c".
    assert PER(["a b"], [["a", "a b c"]]).value == pytest.approx(100 / 3)
    assert PER(["a b"], [["a b c", "a"]]).value == pytest.approx(100 / 3)


def test_per_of_an_empty_hypothesis_is_100_and_can_exceed_it():
    assert PER([""], [["K AE T"]]).value == 100
    assert PER(["K AE T S"], [["AH"]]).value == 400


def test_phones_are_whole_symbols():
    # One phone replaced, though two letters differ.
    assert PER(["K AE T"], [["K IH T"]]).value == pytest.approx(100 / 3)


def test_cer_counts_characters_and_spaces():
    # "kitten" → "sitting": the textbook's 3 edits of 7.
    assert CER(["kitten"], [["sitting"]]).value == pytest.approx(100 * 3 / 7)
    assert CER(["ab"], [["a b"]]).value == pytest.approx(100 / 3)


def test_residues_count_where_they_stand():
    # Of MAKV* one replaced, one left out, one added at the end; and all right: 1, 4, 1 of 6 and 0 of 5 are wrong.
    score = RESIDUES(["MGKV*", "MKV*", "MAKV*G", "MAKV*"], [["MAKV*"]] * 4)
    assert score.value == pytest.approx(100 * (1 - (1 + 4 + 1 + 0) / (5 + 5 + 6 + 5)))
    assert score.higher_is_better
    assert score.signature is None


def test_residues_of_an_empty_output_are_all_wrong():
    assert RESIDUES(["", "MA"], [["MA"], ["MA"]]).value == 50
    assert RESIDUES(["M"], [[""]]).value == 0


def test_residues_are_held_against_the_closest_reference_in_any_order():
    assert RESIDUES(["MAK"], [["GGG", "MAV"]]).value == pytest.approx(100 * 2 / 3)
    # One is wrong against "MAKV" and against "MAG": the longer counts.
    assert RESIDUES(["MAK"], [["MAKV", "MAG"]]).value == pytest.approx(100 * 3 / 4)
    assert RESIDUES(["MAK"], [["MAG", "MAKV"]]).value == pytest.approx(100 * 3 / 4)


def test_residues_need_something_to_count():
    with pytest.raises(UserError, match="all outputs and references are empty"):
        RESIDUES(["", ""], [[""], [""]])


@given(corpora)
def test_all_residues_are_right_when_all_outputs_are(corpus):
    hypotheses, references = [said for said, _ in corpus], [own for _, own in corpus]
    scores = compute(["residues", "exact_match", "cer"], hypotheses, references)
    assert (scores["residues"].value == 100) == (scores["exact_match"].value == 100) == (scores["cer"].value == 0)
    assert 0 <= scores["residues"].value <= 100


def test_exact_match_is_to_the_character_against_any_reference():
    score = EXACT_MATCH(["a b", "a  b", "A b", "c"], [["a b"], ["a b"], ["a b"], ["b", "c"]])
    assert score.value == 50
    assert score.higher_is_better


@given(corpora)
def test_wer_and_exact_match_are_complements(corpus):
    hypotheses, references = [said for said, _ in corpus], [own for _, own in corpus]
    scores = compute(["wer", "exact_match"], hypotheses, references)
    assert scores["wer"].value + scores["exact_match"].value == pytest.approx(100)


@given(corpora, symbols)
def test_another_reference_never_makes_more_words_wrong(corpus, another):
    hypotheses, references = [said for said, _ in corpus], [own for _, own in corpus]
    more = [[*own, another] for own in references]
    assert WER(hypotheses, more).value <= WER(hypotheses, references).value


@pytest.mark.parametrize(
    ("name", "best"), [(name, 100 if metric.higher_is_better else 0) for name, metric in METRICS.items()]
)
def test_a_perfect_hypothesis_has_the_best_value(name, best):
    hypotheses = ["a b c d e", "f g h i j"]
    score = compute([name], hypotheses, [[line] for line in hypotheses])[name]
    assert score.value == pytest.approx(best)
    assert score.name == name
    assert score.higher_is_better == (best == 100)


def test_compute_returns_the_metrics_asked_for_in_that_order():
    scores = compute(["per", "bleu"], SAID, PHONES)
    assert list(scores) == ["per", "bleu"]
    assert scores["per"] == PER(SAID, PHONES)
    assert scores["bleu"] == BLEU(SAID, PHONES)


def test_a_score_prints_its_value_and_signature():
    assert str(PER(SAID, PHONES)) == "per 15.38"
    bleu = BLEU(ENGLISH, REFERENCES)
    assert str(bleu) == f"bleu {bleu.value:.2f}  ({bleu.signature})"


def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(UserError, match=r"unknown metric 'BLUE'; did you mean bleu\?$"):
        compute(["BLUE"], SAID, PHONES)
    with pytest.raises(UserError, match=r"unknown metric 'perplexity'; there are: bleu, chrf, "):
        compute(["wer", "perplexity"], SAID, PHONES)


@pytest.mark.parametrize("name", METRICS)
def test_lists_that_do_not_match_are_refused(name):
    with pytest.raises(ValueError, match="2 hypotheses but references for 1 sources"):
        compute([name], ["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="nothing to score"):
        compute([name], [], [])
    with pytest.raises(ValueError, match="source 1 needs a list of one or more references"):
        compute([name], ["a", "b"], [["a"], []])


@pytest.mark.parametrize("name", ["per", "cer"])
def test_an_error_rate_needs_a_reference_that_is_not_empty(name):
    with pytest.raises(UserError, match="all references are empty"):
        compute([name], ["a", "b"], [[""], [""]])
    assert compute([name], ["a", "b"], [[""], ["b"]])[name].value == 100


def test_names_can_be_checked_beforehand():
    METRICS.check(*METRICS)
    with pytest.raises(UserError, match="unknown metric 'blue'; did you mean bleu"):
        METRICS.check("chrf", "blue")


# Two pronunciations of one word, and a word that is said wrong.
SPOKEN = [("tomato", "T AH M EY T OW"), ("lives", "L IH V Z"), ("tomato", "T AH M AA T OW")]
BY_SOURCE = [name for name, metric in METRICS.items() if metric.by_source]
OUTPUT_OF = {"tomato": "T AH M AA T OW", "lives": "L AY V Z"}


def test_pairs_of_one_source_are_alternatives_in_transcription():
    for name in BY_SOURCE:
        score = compute_for_pairs([name], SPOKEN, OUTPUT_OF)[name]
        references = [["T AH M EY T OW", "T AH M AA T OW"], ["L IH V Z"]]
        assert score == compute([name], ["T AH M AA T OW", "L AY V Z"], references)[name]
    scores = compute_for_pairs(["wer", "per"], SPOKEN, OUTPUT_OF)
    assert scores["wer"].value == 50
    assert scores["per"].value == pytest.approx(100 * 1 / 10)


def test_every_pair_counts_in_translation():
    for name in METRICS.keys() - set(BY_SOURCE):
        score = compute_for_pairs([name], SPOKEN, OUTPUT_OF)[name]
        hypotheses = ["T AH M AA T OW", "L AY V Z", "T AH M AA T OW"]
        assert score == compute([name], hypotheses, [[target] for _, target in SPOKEN])[name]
        assert score.signature.startswith("nrefs:1|")


def test_every_metric_has_its_way_with_repeated_sources():
    assert METRICS.keys() - set(BY_SOURCE) == {"bleu", "chrf", "ter"}


def test_scores_of_pairs_come_in_the_order_asked_for():
    names = ["exact_match", "bleu", "wer", "ter"]
    assert list(compute_for_pairs(names, SPOKEN, OUTPUT_OF)) == names
    assert compute_for_pairs([], SPOKEN, OUTPUT_OF) == {}


def test_pairs_are_refused_as_lists_are():
    with pytest.raises(UserError, match="unknown metric 'blue'"):
        compute_for_pairs(["blue"], SPOKEN, OUTPUT_OF)
    with pytest.raises(ValueError, match="nothing to score"):
        compute_for_pairs(["wer"], [], {})
    with pytest.raises(KeyError, match="lives"):
        compute_for_pairs(["wer"], SPOKEN, {"tomato": ""})


def test_a_metric_has_the_name_that_it_is_registered_under():
    assert [metric.name for metric in METRICS.values()] == list(METRICS)


@pytest.mark.parametrize("by_source", [True, False])
def test_a_metric_may_ask_for_the_sources(monkeypatch, by_source):
    """The output copied from its source; references play no part."""

    def copied(hypotheses, references, sources):
        assert len(hypotheses) == len(references) == len(sources)
        return 100 * sum(map(str.__eq__, hypotheses, sources)) / len(sources)

    copying = Metric("copied", copied, higher_is_better=False, by_source=by_source, wants_sources=True)
    monkeypatch.setattr("qkv.metrics.METRICS", Registry("metric", {"copied": copying}))
    score = compute_for_pairs(["copied"], SPOKEN, {"tomato": "tomato", "lives": "L AY V Z"})["copied"]
    assert score.value == pytest.approx(50 if by_source else 200 / 3)
    with pytest.raises(ValueError, match="copied needs the source of each of 1 hypotheses"):
        compute(["copied"], ["a"], [["a"]])
