"""What the tests of qkv.comparison share: a recipe so small that a comparison takes seconds, and made-up results."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.comparison.report import Comparison
from qkv.comparison.results import Example, Measurement, Row, TrainingPoint, ValidationPoint
from qkv.evaluation.by_length import LengthBucket
from qkv.measuring.environment import Environment
from qkv.measuring.speed import DecodingSpeed, LengthTime
from qkv.metrics import Score

RECIPE = """\
data: {{root: {data}, train: train.tsv, validation: validation.tsv, test: test.tsv}}
device: cpu
threads: 1
tokenizer: {{kind: word}}
model: {{d_model: 16, num_heads: 2, d_ff: 32, encoder_layers: 1, decoder_layers: 1, norm_position: pre}}
training: {{steps: 12, batch_tokens: 200, warmup_steps: 3, learning_rate: 1e-2, report_every: 3}}
validation: {{every: 4, samples: 0, metric: per, max_examples: 5}}
decoding: {{beam: 2, max_length_ratio: 0.5, max_length_extra: 2}}
evaluation: {{metrics: [per, bleu]}}
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def quick_timings() -> Iterator[None]:
    """One repetition, two lengths: what is timed matters here, not how well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qkv.measuring.speed._REPEATS", 1)
        patch.setattr("qkv.comparison.measure.LENGTHS", (4, 8))
        yield


def write_pairs(path: Path, count: int, seed: int) -> None:
    """Syllables, and the same backwards; up to twelve of them."""
    chance = random.Random(seed)
    lines = []
    for _ in range(count):
        syllables = chance.choices(("ka", "to", "mi", "<b>re</b>"), k=chance.randint(2, 12))
        lines.append(f"{' '.join(syllables)}\t{' '.join(reversed(syllables))}\n")
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A directory with the pairs and recipe.yaml."""
    directory = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate([("train", 60), ("validation", 10), ("test", 24)]):
        write_pairs(directory / f"{name}.tsv", count, seed)
    (directory / "recipe.yaml").write_text(RECIPE.format(data=directory), "utf-8")
    return directory


@pytest.fixture
def recipe(data) -> Path:
    return data / "recipe.yaml"


ENVIRONMENT = Environment("0.1", "2.13", "3.11", "a machine", "cpu", 2, 1)


@pytest.fixture
def measurement() -> Callable[..., Measurement]:
    """Made-up results; keyword arguments change them."""

    def make(**changes: Any) -> Measurement:
        values: dict[str, Any] = {
            "architecture": "transformer",
            "parameters": 1234,
            "steps": 10,
            "target_tokens": 5000,
            "minutes": 1.5,
            "tokens_per_second": 321.0,
            "training": [TrainingPoint(5, 30.0, 2500, 2.0), TrainingPoint(10, 60.0, 5000, 1.0)],
            "validation": [ValidationPoint(5, 40.0, 2500, 1.9, 12.0), ValidationPoint(10, 90.0, 5000, 1.1, 25.0)],
            "validation_metric": "bleu",
            "pairs_name": "test",
            "pairs": 50,
            "beam": 5,
            "scores": [Score("bleu", 25.5, "nrefs:1|tok:13a", True), Score("per", 60.0, None, False)],
            "length_unit": "words",
            "by_length": [LengthBucket(1, 10, 25, 30.0), LengthBucket(11, 30, 25, 20.0)],
            "decoding": DecodingSpeed("torch float32", 50, 5, 2.0, 25.0, 250.0),
            "times": [LengthTime(8, 0.010, 1e-4), LengthTime(16, 0.020, 2e-4)],
            "examples": [Example("a | b", "B A", "<script>alert('x')</script>")],
            "environment": ENVIRONMENT,
            "date": "2026-01-01T00:00:00+00:00",
        }
        return Measurement(**values | changes)

    return make


@pytest.fixture
def comparison() -> Callable[..., Comparison]:
    """A comparison of the given rows."""

    def make(*rows: Row, **changes: Any) -> Comparison:
        values: dict[str, Any] = {
            "recipe": "recipe.yaml",
            "output": "runs/compare",
            "command": "qkv compare recipe.yaml",
            "date": "2026-01-01T00:00:00+00:00",
            "environment": ENVIRONMENT,
            "vary": {"model.architecture": [row.name for row in rows]},
            "rows": list(rows),
            "config": {"seed": 1},
        }
        return Comparison(**values | changes)

    return make
