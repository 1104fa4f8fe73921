"""Which of a search's outputs are listed."""

from hypothesis import given
from hypothesis import strategies as st

from qkv.decoding.hypothesis import Hypothesis, distinct

OUTPUT = st.tuples(st.sampled_from("abcdef"), st.integers(-30, 0).map(float), st.booleans())


@given(st.lists(OUTPUT, max_size=12), st.integers(1, 12))
def test_different_texts_in_order_of_score(outputs, most):
    outputs.sort(key=lambda output: (output[2], output[1]), reverse=True)  # as a search gives them
    found = [Hypothesis([], score, score, finished) for _, score, finished in outputs]
    texts = [text for text, _, _ in outputs]
    listed = distinct(found, texts, most)
    assert listed[:1] == [0][: len(found)], "what translate gives"
    assert len({texts[index] for index in listed}) == len(listed) <= most
    scores = [found[index].score for index in listed]
    assert scores == sorted(scores, reverse=True)
    for index in listed:
        assert texts.index(texts[index]) == index, "the search's first stands for all of one text"
    ended = {text for text, _, finished in outputs if finished}
    if any(not found[index].finished for index in listed):
        assert ended <= {texts[index] for index in listed}, "those that were cut off fill up"
    above = {text for text, score, _ in outputs if score > found[0].score}
    assert len(listed) >= min(most, len(set(texts) - above))
