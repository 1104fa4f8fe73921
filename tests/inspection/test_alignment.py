"""Alignments: words from pieces, links from weights, Pharaoh format, alignment error rate."""

import numpy as np
import pytest

from qkv.errors import UserError
from qkv.inspection.alignment import (
    AlignmentHead,
    Gold,
    align,
    alignment_error_rate,
    links_of,
    rank_heads,
    read_pharaoh,
    to_pharaoh,
    units_of,
)
from qkv.inspection.attention_maps import attention_maps
from qkv.text.tokenizer import Tokenizer
from qkv.text.tokenizer_settings import TokenizerSettings

PAIRS = [("abba cad", "AB"), ("", ""), ("dab cd", "CAB DAB")]


def gold(sure, possible=()):
    return Gold(frozenset(sure), frozenset(sure) | frozenset(possible))


def test_alignment_error_rate_by_hand():
    found = [{(0, 0), (1, 1), (2, 2)}, {(0, 1)}]
    truth = [gold({(0, 0), (1, 2)}, {(1, 1)}), gold({(0, 0)})]
    # |A ∩ S| = 1, |A ∩ P| = 2, |A| = 4, |S| = 3
    assert alignment_error_rate(found, truth) == pytest.approx(1 - 3 / 7)
    assert alignment_error_rate([{(0, 0)}], [gold({(0, 0)})]) == 0.0
    assert alignment_error_rate([{(0, 1)}], [gold({(0, 0)})]) == 1.0
    assert alignment_error_rate([set()], [gold(())]) == 0.0
    with pytest.raises(ValueError, match="shorter"):
        alignment_error_rate(found, truth[:1])


def test_pharaoh_format_both_ways():
    assert to_pharaoh({(10, 2), (2, 1), (2, 0)}) == "2-0 2-1 10-2"
    assert to_pharaoh(set()) == ""
    assert read_pharaoh(["0-0 1p2 3?4", ""]) == [gold({(0, 0)}, {(1, 2), (3, 4)}), gold(())]
    with pytest.raises(UserError, match=r"alignments, line 2: '1:2' is no link"):
        read_pharaoh(["0-0", "1:2"])


@pytest.mark.parametrize(
    ("pieces", "kind", "unit", "units"),
    [
        ("▁the ▁cat s ▁ Ω ▁. .", "bpe", None, [0, 1, 1, 2, 2, 3, 3]),
        ("▁the ▁cat s", "bpe", "token", [0, 1, 2]),
        ("a b ▁ c ▁ ▁ d", "char", "word", [0, 0, 1, 1, 2, 2, 2]),
        ("a b ▁ c", "char", None, [0, 1, 2, 3]),
        ("▁AE1 <unk> ▁B", "word", "word", [0, 1, 2]),
        ("", "bpe", None, []),
    ],
)
def test_units(pieces, kind, unit, units):
    assert units_of(pieces.split(), kind, unit) == units


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_words_are_those_between_spaces(kind, tmp_path):
    lines = ["the cats sat on the mats", "a cat, a mat: that is all!"]
    tokenizer = Tokenizer.learn(lines * 5, tmp_path / "joint.model", TokenizerSettings(kind=kind, vocab_size=40))
    for line in [*lines, "unknown Ω words 漢字 – here", "  twice  spaced "]:
        (ids,) = tokenizer.encode([line])
        assert units_of(tokenizer.pieces(ids), kind)[-1] + 1 == len(line.split())


def test_links_take_source_pieces_together_and_leave_words_of_the_end_alone():
    # Source: word 0 of pieces 0 and 1, word 1 of piece 2, the end. Target: word 0, word 1 of rows 1 and 2, word 2.
    weights = np.array(
        [
            [0.25, 0.25, 0.4, 0.1],
            [0.1, 0.0, 0.5, 0.4],
            [0.3, 0.3, 0.4, 0.0],
            [0.2, 0.2, 0.1, 0.5],
            [0.0, 0.0, 0.0, 1.0],  # of the end of sentence itself
        ]
    )
    assert links_of(weights, [0, 0, 1], [0, 1, 1, 2]) == {(0, 0), (1, 1)}
    assert links_of(weights, [], [0]) == links_of(weights, [0], []) == set()


@pytest.mark.parametrize("shifted", [False, True])
def test_links_are_those_of_the_maps(shifted, make_translator):
    translator = make_translator()
    found = align(translator, PAIRS, head=AlignmentHead(2, 3, shifted))
    assert found.chosen_by == "as asked for"
    for pair, links in zip(PAIRS, found.links, strict=True):
        weights = attention_maps(translator, *pair).attention["cross"][1, 2]
        best = weights.argmax(axis=1)[1 if shifted else 0 :][: len(pair[1])]
        assert links == {(int(source), target) for target, source in enumerate(best) if source < len(pair[0])}


def test_pairs_are_aligned_in_parts(make_translator, monkeypatch):
    translator, head = make_translator(), AlignmentHead(1, 2)
    whole = align(translator, PAIRS, head=head).links
    monkeypatch.setattr("qkv.inspection.alignment._PAIRS_AT_ONCE", 2)
    assert align(translator, PAIRS, head=head).links == whole


def test_they_draw_themselves_word_by_word(make_translator):
    found = align(make_translator(), [("abba cad", "AB"), ("a<b", "")], head=AlignmentHead(1, 1), unit="word")
    assert found.sources == [["abba", "cad"], ["a<unk>b"]]
    assert found.targets == [["AB"], []]
    drawn = found._repr_html_()
    assert drawn.count("<figure>") == 2
    assert ">cad</text>" in drawn
    assert "a&lt;unk&gt;b</text>" in drawn
    assert "Links of layer 1, head 1, at the step that predicts a token (as asked for); 2 of 2 pairs" in drawn


def test_the_head_that_made_the_gold_is_found(make_translator):
    translator, head = make_translator(), AlignmentHead(1, 4, shifted=True)
    truth = [gold(links) for links in align(translator, PAIRS, head=head).links]
    ranking = rank_heads(translator, PAIRS, truth)
    assert ranking[0] == (head, 0.0)
    assert len(ranking) == 16
    assert [rate for _, rate in ranking] == sorted(rate for _, rate in ranking)
    found = align(translator, PAIRS, gold=truth[:2])
    assert alignment_error_rate(found.links[:2], truth[:2]) == 0.0
    assert found.chosen_by == "the lowest alignment error rate of all heads, 0.0000 on 2 pairs"


def test_without_gold_the_criterion_is_occlusion(make_translator):
    found = align(make_translator(), PAIRS)
    assert found.chosen_by.startswith("its links differ least from those of occlusion, by 0.")
    assert found.chosen_by.endswith(" on 3 pairs")
    assert len(found.links) == 3


def test_what_cannot_be_aligned(make_translator):
    translator = make_translator()
    with pytest.raises(UserError, match="no pairs"):
        align(translator, [])
    with pytest.raises(UserError, match="no layer 3, head 1: there are 2 layers of 4 heads"):
        align(translator, PAIRS, head=AlignmentHead(3, 1))
    with pytest.raises(UserError, match="4 gold alignments for 3 pairs"):
        align(translator, PAIRS, gold=[gold(())] * 4)
    with pytest.raises(UserError, match="2 gold alignments for 3 pairs; each pair needs one"):
        rank_heads(translator, PAIRS, [gold(())] * 2)
    with pytest.raises(UserError, match="no cross-attention"):
        align(make_translator("gru"), PAIRS)
