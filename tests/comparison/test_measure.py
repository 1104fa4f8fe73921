"""What is measured: buckets of length, examples, curves and speeds."""

import json

import pytest

from qkv.comparison.measure import choose_examples, how_it_learnt
from qkv.comparison.results import Measurement
from qkv.evaluation.by_length import length_unit, quality_by_length
from qkv.run.directory import Run
from qkv.text.corpus import Pair


def pairs_of(*lengths):
    return [Pair(" ".join([f"w{number}"] * length), "x") for number, length in enumerate(lengths)]


def buckets(*lengths):
    pairs = pairs_of(*lengths)
    found = quality_by_length(pairs, {pair.source: "x" for pair in pairs}, "exact_match", "words")
    return [(bucket.low, bucket.high, bucket.pairs) for bucket in found]


def test_buckets_of_ten_words():
    assert buckets(*[1, 10] * 10, *[11, 20] * 10, *[21] * 20) == [(1, 10, 20), (11, 20, 20), (21, 30, 20)]


def test_small_buckets_are_merged_with_their_neighbours():
    assert buckets(*[5] * 3, *[15] * 30, *[25] * 20, *[65] * 2) == [(1, 20, 33), (21, 70, 22)]
    assert buckets(5, 95) == [(1, 100, 2)]


def test_an_empty_source_is_a_short_one():
    assert buckets(0, *[1] * 30) == [(1, 10, 31)]


def test_a_bucket_has_the_quality_of_its_own_pairs():
    pairs = pairs_of(*[5] * 20, *[15] * 40)
    outputs = {pair.source: "x" if number < 30 else "y" for number, pair in enumerate(pairs)}
    found = quality_by_length(pairs, outputs, "exact_match", "words")
    assert [bucket.value for bucket in found] == [100.0, 25.0]


def test_length_is_in_words_only_where_there_are_words():
    assert length_unit(["a b", "c d e", "f"]) == "words"
    assert length_unit(["abc", "def", "g h"]) == "characters"
    pairs = [Pair("abcdefghijkl", "x")] * 20
    (bucket,) = quality_by_length(pairs, {"abcdefghijkl": "x"}, "exact_match", "characters")
    assert (bucket.low, bucket.high) == (11, 20)


def test_examples_spread_over_the_lengths_and_do_not_depend_on_the_outputs():
    pairs = [*pairs_of(*range(1, 51)), Pair("w0", "another reference")]
    chosen = choose_examples(pairs, {pair.source: "good" for pair in pairs})
    again = choose_examples(pairs, {pair.source: "bad" for pair in pairs})
    assert [example.source for example in chosen] == [example.source for example in again]
    assert [(len(example.source.split()) - 1) // 10 for example in chosen] == [0, 1, 2, 3, 4]
    assert {example.reference for example in chosen} == {"x"}, "the first reference"
    assert {example.output for example in again} == {"bad"}


def test_examples_of_few_pairs():
    pairs = pairs_of(3, 1)
    assert len(choose_examples(pairs, {pair.source: "" for pair in pairs})) == 2


def test_curves_come_from_the_records(tmp_path):
    run = Run(tmp_path)
    run.config_path.write_text("validation: {metric: bleu}\n")
    checkpoint = run.checkpoint_path(8)
    checkpoint.mkdir(parents=True)
    training = {"step": 8, "seconds": 90.0, "target_tokens": 800}
    state = {"format": 1, "architecture": "transformer", "model": {}, "training": training}
    (checkpoint / "state.json").write_text(json.dumps(state))
    records = [
        {"event": "train", "step": step, "seconds": 10.0 * step, "target_tokens": 90 * step, "nll": 1 / step}
        | {"tokens_per_second": speed}
        for step, speed in ((2, 10.0), (4, 100.0), (6, 30.0))
    ]
    records.append({"event": "validation", "step": 3, "seconds": 35.0, "loss": 2.0, "bleu": 5.0})
    records.append({"event": "validation", "step": 8, "seconds": 120.0, "loss": 1.0, "bleu": 7.0})
    records.append({"event": "validation", "step": 9, "seconds": 120.0, "loss": None, "bleu": None})
    records.append(
        {"event": "train", "step": 9, "seconds": 1.0, "target_tokens": 9, "nll": None, "tokens_per_second": 30.0}
    )
    run.metrics_path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = how_it_learnt(run)
    assert found["tokens_per_second"] == 30.0, "the median: a slow report does not count for much"
    assert (found["steps"], found["target_tokens"], found["minutes"]) == (8, 800, 2.0)
    assert [(point.step, point.target_tokens) for point in found["training"]] == [(2, 180), (4, 360), (6, 540)]
    assert [(p.target_tokens, p.loss, p.metric) for p in found["validation"]] == [(270, 2.0, 5.0), (800, 1.0, 7.0)]


def test_a_measurement_is_read_back_as_it_was_written(measurement, tmp_path):
    made = measurement()
    made.save(tmp_path / "m.json")
    assert Measurement.load(tmp_path / "m.json") == made


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"architecture": "x"}'])
def test_a_damaged_measurement_is_none(content, tmp_path):
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    assert Measurement.load(tmp_path / "m.json") is None
