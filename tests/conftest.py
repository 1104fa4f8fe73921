"""For all tests: every shape in a signature of qkv is checked at a call; and what several rooms try things on."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

jaxtyping.install_import_hook("qkv", "beartype.beartype")

from qkv.config.loading import load_config  # noqa: E402  (the hook comes first)
from qkv.nn import Transformer, TransformerConfig  # noqa: E402
from qkv.run.directory import Run  # noqa: E402

POSITIONS = ["sinusoidal", "learned", "rotary", "none"]
VOCAB_SIZE = 11
SYLLABLES = ("ka", "to", "mi", "re", "su", "ba", "ne", "lo")


@pytest.fixture(scope="module")
def without_shape_checks() -> Iterator[None]:
    """They more than double the time of a training; tests of whole trainings do without, as their parts are tested."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Float64 and a fixed seed."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Models


@pytest.fixture(params=["pre", "post"])
def norm_position(request) -> str:
    return request.param


@pytest.fixture(params=POSITIONS)
def position(request) -> str:
    return request.param


@pytest.fixture(params=[("random", "post"), ("trained", "pre")], ids=["random-post", "trained-pre"])
def model(request, position) -> Transformer:
    """A small Transformer in evaluation mode, as initialised or after some steps of training."""
    weights, norm_position = request.param
    model = small_transformer(position, norm_position)
    if weights == "trained":
        model.load_state_dict(trained_weights(position, norm_position))
    return model.eval()


@pytest.fixture
def plain_model() -> Transformer:
    """One model for what depends on neither positions nor norms."""
    return small_transformer("sinusoidal", "post").eval()


def small_transformer(position: str, norm_position: str) -> Transformer:
    config = TransformerConfig(
        VOCAB_SIZE,
        d_model=16,
        num_heads=4,
        d_ff=32,
        encoder_layers=2,
        decoder_layers=2,
        norm_position=norm_position,
        position=position,
        max_length=64,
    )
    return Transformer(config)


@cache
def trained_weights(position: str, norm_position: str) -> dict[str, Tensor]:
    with torch.inference_mode(False):
        model = small_transformer(position, norm_position)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(6):  # learning to copy
            tokens = torch.randint(1, VOCAB_SIZE, (8, 6))
            logits = model(tokens, tokens.roll(1, dims=1))
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()


@pytest.fixture
def source() -> Tensor:
    """Three sentences of 5, 3 and 4 tokens, padded with zeros on the right."""
    return torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [5, 3, 5, 8, 0]])


@pytest.fixture
def target() -> Tensor:
    """Their three targets, of 4, 6 and 1 tokens."""
    return torch.tensor([[2, 7, 1, 8, 0, 0], [2, 8, 1, 8, 2, 8], [2, 0, 0, 0, 0, 0]])


# Runs


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


# Other packages


@pytest.fixture
def other_package(tmp_path) -> Callable[..., Any]:
    """Install a package that adds to one of qkv's registries: `(modules, group, entries)`; gives a way to run `qkv`.

    It lies in a directory on PYTHONPATH, with the metadata that an installer would write.
    """

    def install(modules: dict[str, str], group: str, entries: dict[str, str]) -> Callable[..., Any]:
        site = tmp_path / "site"
        metadata = site / "other-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        for name, code in modules.items():
            (site / f"{name}.py").write_text(code)
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

        def run(*arguments: object) -> Any:
            command = [sys.executable, "-m", "qkv", *map(str, arguments)]
            return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)

        return run

    return install
