"""What the tests of qkv.training share: a corpus and a recipe so small that a run takes a second."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.config.loading import load_config
from qkv.run.directory import Run

SYLLABLES = ("ka", "to", "mi", "re", "su", "ba", "ne", "lo")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_corpus(path: Path, pairs: int, seed: int) -> None:
    """Words of two to five syllables, and the same syllables backwards: unequal lengths, something to learn."""
    chance = random.Random(seed)
    lines = []
    for _ in range(pairs):
        syllables = chance.choices(SYLLABLES, k=chance.randint(2, 5))
        lines.append(f"{''.join(syllables)}\t{''.join(reversed(syllables))}\n")
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A directory with train.tsv and validation.tsv."""
    directory = tmp_path_factory.mktemp("corpus")
    write_corpus(directory / "train.tsv", 160, seed=1)
    write_corpus(directory / "validation.tsv", 20, seed=2)
    return directory


@pytest.fixture(scope="session")
def make_recipe(corpus) -> Callable[..., dict[str, Any]]:
    """A tiny recipe; keyword arguments change its sections: `make_recipe("runs/a", training={"steps": 3})`."""

    def make(run: str | Path, **changes: dict[str, Any]) -> dict[str, Any]:
        base: dict[str, dict[str, Any]] = {
            "data": {"root": str(corpus), "train": "train.tsv", "validation": "validation.tsv"},
            "tokenizer": {"vocab_size": 40},
            "model": {
                "d_model": 16,
                "num_heads": 2,
                "d_ff": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "dropout": 0.1,
            },
            "training": {
                "steps": 20,
                "batch_tokens": 150,
                "learning_rate": 3e-3,
                "warmup_steps": 5,
                "report_every": 2,
            },
            "validation": {"every": 5, "samples": 1},
        }
        for section, values in changes.items():
            base[section] = base.get(section, {}) | values
        return {"run": str(run), "device": "cpu", "threads": 1} | base

    return make


@pytest.fixture
def recipe(make_recipe, tmp_path) -> Callable[..., dict[str, Any]]:
    """The same for a run below `tmp_path`: `recipe("a", training={"steps": 3})`."""
    return lambda run="run", **changes: make_recipe(tmp_path / run, **changes)


@pytest.fixture(scope="session")
def outcome() -> Callable[[Run], dict[str, Any]]:
    """All that a run has come to, bit for bit, save for what a clock has said."""

    def without_times(record: dict[str, Any]) -> dict[str, Any]:
        times = ("seconds", "tokens_per_second", "longest_validation")
        return {name: value for name, value in record.items() if name not in times}

    def read(run: Run) -> dict[str, Any]:
        result: dict[str, Any] = {"metrics": [without_times(record) for record in run.metrics()]}
        result["best"] = run.best_path.resolve().name
        for directory in sorted(run.checkpoints_path.iterdir()):
            for path in directory.glob("*.safetensors"):
                result[f"{directory.name}/{path.name}"] = path.read_bytes()
            state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
            result[f"{directory.name}/state.json"] = state | {"training": without_times(state["training"])}
        return result

    return read


@pytest.fixture
def config(recipe) -> Callable[..., Any]:
    """`recipe` as a validated configuration."""
    return lambda *args, **changes: load_config(recipe(*args, **changes))
