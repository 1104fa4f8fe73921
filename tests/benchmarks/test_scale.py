"""The corpus that `benchmarks/scale.py` makes, and the table it prints; what it measures is for the machine to say."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scale():
    return script("scale")


@pytest.fixture(scope="module")
def stages():
    return script("scale_stages")


def test_sentences_are_short_translated_word_by_word_and_a_function_of_the_seed(stages):
    pairs = list(stages.sentences(2000))
    assert pairs == list(stages.sentences(2000))
    assert pairs != list(stages.sentences(2000, seed=2))
    lengths = {len(source.split()) for source, _ in pairs}
    assert lengths == set(range(2, stages.LONGEST + 1))
    words = [(one, other) for pair in pairs for one, other in zip(*map(str.split, pair), strict=True)]
    translations = dict(words)
    # Spelling is by chance, so that a few short words have two translations.
    assert sum(translations[one] == other for one, other in words) > 0.9 * len(words)


def test_frequencies_follow_zipf(stages):
    words = Counter(word for source, _ in stages.sentences(50_000) for word in source.split())
    (_, first), *_, (_, tenth) = words.most_common(10)
    assert first / tenth == pytest.approx(10, rel=0.15)


def test_chunks_are_seamless(stages, monkeypatch):
    monkeypatch.setattr(stages, "AT_ONCE", 7)
    pairs = list(stages.sentences(20))
    assert len(pairs) == 20
    assert all(len(source.split()) == len(target.split()) >= 2 for source, target in pairs)


def test_a_process_is_measured_and_its_failure_is_told(scale, tmp_path):
    result = scale.in_a_process("generate", tmp_path / "corpus", 30, threads=1)
    assert result["seconds"] > 0
    assert result["peak_resident_mib"] > result["peak_anonymous_mib"] > 1
    lines = [(tmp_path / "corpus" / f"train.{side}").read_text().splitlines() for side in ("source", "target")]
    assert [len(side) for side in lines] == [30, 30]
    with pytest.raises(SystemExit, match="generate"):
        scale.in_a_process("generate", tmp_path / "corpus", 30, threads=1)  # it is there already


def test_memory_of_a_process_that_has_ended(scale):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert scale.memory(process.pid) == {}


def test_the_table_has_a_column_for_each_size(scale):
    stages = {stage: {key: 2.0 for of, key in scale.ROWS.values() if of == stage} for stage, _ in scale.ROWS.values()}
    lines = scale.table(json.loads(json.dumps({"1000": stages, "20000": stages})))
    assert lines[0] == "| pairs | 1,000 | 20,000 |"
    assert len(lines) == 2 + len(scale.ROWS)
    assert {line.count("|") for line in lines} == {4}
    assert "| open, ms | 2,000 | 2,000 |" in lines
