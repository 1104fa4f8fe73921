"""Cutting at random: the right probabilities, the usual cut in the limit, and the same in every process."""

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from random import Random

import pytest

from qkv.text.sampling import BpeSampler, UnigramSampler
from qkv.text.tokenizer import Tokenizer
from qkv.text.tokenizer_settings import TokenizerSettings

SCORES = {"a": -2.0, "b": -2.5, "c": -3.0, "ab": -3.2, "bc": -4.0, "abc": -5.0, "ca": -4.5}
SENTENCES = ["the cat sat on the mat", "a cat and a dog sat", "  dogs and cats, cats and dogs ", "☃☃ x ☃a☃", ""]


def all_cuts(word: str) -> Iterator[tuple[str, ...]]:
    if not word:
        yield ()
    for end in range(1, len(word) + 1):
        if word[:end] in SCORES:
            yield from ((word[:end], *rest) for rest in all_cuts(word[end:]))


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_unigram_draws_each_cut_as_often_as_it_should(alpha):
    word, draws = "abcab", 20_000
    weights = {cut: math.exp(alpha * sum(SCORES[piece] for piece in cut)) for cut in all_cuts(word)}
    assert len(weights) == 10
    sampler, generator = UnigramSampler(SCORES, alpha), Random(1)
    seen = Counter(tuple(sampler.cut(word, generator)) for _ in range(draws))
    assert seen.keys() == weights.keys()
    for cut, weight in weights.items():
        probability = weight / sum(weights.values())
        assert seen[cut] / draws == pytest.approx(probability, abs=5 * math.sqrt(probability / draws))


def test_bpe_drops_each_merge_as_often_as_it_should():
    """Of "abc" first ab is merged, unless that is dropped, and then abc."""
    scores = {"a": -9.0, "b": -9.0, "c": -9.0, "ab": -1.0, "abc": -2.0}
    p, draws = 0.3, 20_000
    sampler, generator = BpeSampler(scores, p), Random(1)
    seen = Counter(tuple(sampler.cut("abc", generator)) for _ in range(draws))
    expected = {("a", "b", "c"): p, ("ab", "c"): (1 - p) * p, ("abc",): (1 - p) ** 2}
    assert seen.keys() == expected.keys()
    for cut, probability in expected.items():
        assert seen[cut] / draws == pytest.approx(probability, abs=5 * math.sqrt(probability / draws))


def every_outcome(pieces: tuple[str, ...], scores: dict[str, float], dropout: float) -> dict[tuple[str, ...], float]:
    """The probability of each cut: algorithm 1 of Provilkov et al., gone through with every set of dropped merges."""
    possible = [i for i in range(len(pieces) - 1) if pieces[i] + pieces[i + 1] in scores]
    outcomes: dict[tuple[str, ...], float] = Counter()
    for kept in product([True, False], repeat=len(possible)):
        probability = math.prod(1 - dropout if is_kept else dropout for is_kept in kept)
        left = [i for i, is_kept in zip(possible, kept, strict=True) if is_kept]
        if not left:
            outcomes[pieces] += probability
            continue
        best = max(left, key=lambda i: (scores[pieces[i] + pieces[i + 1]], -i))
        merged = (*pieces[:best], pieces[best] + pieces[best + 1], *pieces[best + 2 :])
        for cut, share in every_outcome(merged, scores, dropout).items():
            outcomes[cut] += probability * share
    return outcomes


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("word", ["ababa", "aaaa", "cab", "x"])
def test_bpe_draws_as_the_algorithm_does(word, dropout):
    scores = {"ab": -1.0, "ba": -2.0, "aa": -3.0, "aba": -4.0, "abab": -5.0, "ca": -6.0, "aaaa": -7.0}
    draws = 10_000
    expected = every_outcome(tuple(word), scores, dropout)
    assert sum(expected.values()) == pytest.approx(1)
    sampler, generator = BpeSampler(scores, dropout), Random(1)
    seen = Counter(tuple(sampler.cut(word, generator)) for _ in range(draws))
    for cut in seen.keys() | expected.keys():
        probability = expected.get(cut, 0.0)
        spread = math.sqrt(probability * (1 - probability) / draws)
        assert seen[cut] / draws == pytest.approx(probability, abs=5 * spread + 1e-12)


def test_a_word_drawn_is_not_what_is_remembered():
    sampler = BpeSampler({"ab": -1.0}, 0.0)
    sampler.cut("ab", Random(1)).append("changed")
    assert sampler.cut("ab", Random(1)) == ["ab"]


def test_unknown_characters_stand_alone():
    assert UnigramSampler(SCORES, 0.1).cut("xyx", Random(1)) == ["x", "y", "x"]
    assert BpeSampler(SCORES, 0.0).cut("xaby", Random(1)) == ["x", "ab", "y"]


@pytest.mark.parametrize(("kind", "limit"), [("unigram", 1e4), ("bpe", 0.0)])
@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc_cf"])
def test_in_the_limit_it_is_the_usual_cut(tmp_path, kind, limit, normalization):
    tokenizer = Tokenizer.learn(
        SENTENCES[:3] * 9, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=60, normalization=normalization)
    )
    assert tokenizer.encode_sampled(SENTENCES, limit, seed=1) == tokenizer.encode(SENTENCES)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_in_another_process_it_is_the_same(tmp_path, kind):
    """Else no training that uses it could be resumed exactly."""
    tokenizer = Tokenizer.learn(SENTENCES[:3] * 9, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=60))
    code = (
        "import sys; from qkv.text.tokenizer import Tokenizer; from pathlib import Path; "
        f"print(Tokenizer.load(Path(sys.argv[1])).encode_sampled({SENTENCES!r}, 0.3, seed=5))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert ran.stdout.strip() == str(tokenizer.encode_sampled(SENTENCES, 0.3, seed=5))
