"""Lists of the n best: no text twice, in order, marked where they were cut off, as probable as `score` says."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qkv

pytestmark = pytest.mark.usefixtures("without_shape_checks")
NEAR = {"torch": 1e-4, "ctranslate2": 0.05}
"""CTranslate2 takes padding out before its softmax; a model that has learnt little gives it something."""


@pytest.fixture(scope="module", params=NEAR)
def translator(request, doubtful):
    if request.param == "ctranslate2":
        pytest.importorskip("ctranslate2")
    run = doubtful("unigram", steps=160, learning_rate=1e-2, sampling=0.1)
    return qkv.load(run, device="cpu", engine=request.param)


@pytest.fixture(scope="module")
def hurried(translator):
    """The same, of whose outputs many are cut off."""
    options = translator.options.changed(max_length_ratio=0.7, max_length_extra=1)
    return qkv.Translator(translator.model, translator.tokenizers, options=options, engine=translator.engine)


@settings(max_examples=5, deadline=None, suppress_health_check=[*HealthCheck])
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=8), st.integers(1, 6))
def test_every_list(translator, hurried, sources, n):
    for each in (translator, hurried):
        check_lists(each, sources, n)


def check_lists(translator, sources, n):
    best = translator.translate(sources, beam=translator.beam_for(n))
    for source, outputs, first in zip(sources, translator.n_best(sources, n), best, strict=True):
        texts = [output.text for output in outputs]
        assert len(set(texts)) == len(texts)
        assert 1 <= len(texts) <= n
        scores = [output.score for output in outputs]
        assert scores == sorted(scores, reverse=True)
        assert texts[0] == first
        for output in outputs:
            length = len(output.tokens) + output.finished
            assert output.score == pytest.approx(output.log_probability / length, abs=1e-5)
            [scored] = translator.score([(source, output.text)])
            if output.finished and scored.tokens[:-1] == output.tokens:
                assert output.log_probability == pytest.approx(scored.log_probability, abs=NEAR[translator.engine.name])


def test_texts_would_be_there_several_times_and_cut_off(translator, hurried, doubtful_words):
    """Else the test above would show nothing."""
    sources = translator.encode(doubtful_words[:50], "source")
    options = translator.search_options(5, None, n_best=5)
    rows = [translator.tokenizers.target.decode([h.tokens for h in row]) for row in translator.search(sources, options)]
    assert sum(len(set(row)) < len(row) for row in rows) > 5
    lists = translator.n_best(doubtful_words[:50], 5)
    assert sum(len(outputs) == 5 for outputs in lists) > 40, "as many as asked for, as the beam is wider"
    lists = hurried.n_best(doubtful_words[:50], 5)
    assert {output.finished for outputs in lists for output in outputs} == {True, False}
