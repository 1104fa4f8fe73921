"""The first tasks of every article: copy and reverse, learnt from pairs to exact match on sequences never seen.

Each takes well under a minute of one core, which is more than all other tests but a few; so they are marked as slow.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import qkv
from qkv.metrics.transcription import EXACT_MATCH

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_shape_checks")]

LETTERS = "abcdefgh"
TASKS: dict[str, Callable[[str], str]] = {"copy": lambda word: word, "reverse": lambda word: word[::-1]}
STEPS = {"copy": 500, "reverse": 700}


def write_pairs(path: Path, words: list[str], task: Callable[[str], str]) -> None:
    path.write_text("".join(f"{word}\t{task(word)}\n" for word in words), encoding="utf-8")


def different_words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    words: set[str] = set()
    while len(words) < count:
        words.add("".join(generator.choices(LETTERS, k=generator.randint(3, 7))))
    return sorted(words)


@pytest.mark.parametrize("name", TASKS)
def test_learnt_to_exact_match(name, tmp_path):
    task, words = TASKS[name], different_words(4400, seed=7)
    random.Random(1).shuffle(words)
    unseen = words[4000:]
    write_pairs(tmp_path / "train.tsv", words[:4000], task)
    run = qkv.train(
        {
            "run": str(tmp_path / "run"),
            "threads": 1,
            "data": {"train": str(tmp_path / "train.tsv")},
            "tokenizer": {"kind": "char"},
            "model": {
                "d_model": 64,
                "num_heads": 4,
                "d_ff": 128,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "dropout": 0.0,
                "norm_position": "pre",
            },
            "training": {
                "steps": STEPS[name],
                "batch_tokens": 512,
                "learning_rate": 4e-3,
                "warmup_steps": 80,
                "schedule": "cosine",
                "label_smoothing": 0.0,
            },
            "validation": {"every": 10_000},
        },
        progress=False,
    )
    translator = qkv.load(run.path)
    outputs = translator.translate(unseen, beam=1)
    assert EXACT_MATCH(outputs, [[task(word)] for word in unseen]).value >= 99.0
    by_beam = translator.translate(unseen[:100], beam=4)
    assert EXACT_MATCH(by_beam, [[task(word)] for word in unseen[:100]]).value >= 98.0
