"""Runs that have learnt little, so that searches are in doubt: where something can go wrong, it does."""

import random

import pytest

import qkv


@pytest.fixture(scope="session")
def doubtful_words():
    """Words of a to h."""
    chance = random.Random(5)
    return ["".join(chance.choices("abcdefgh", k=chance.randint(2, 9))) for _ in range(500)]


@pytest.fixture(scope="session")
def doubtful(tmp_path_factory, doubtful_words):
    """Train a run for a few steps on words and the same in upper case; its directory."""
    made = {}

    def train(kind, steps=60, learning_rate=3e-3, **changes):
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            (path / "train.tsv").write_text("".join(f"{word}\t{word.upper()}\n" for word in doubtful_words))
            recipe = {
                "run": str(path / "run"),
                "device": "cpu",
                "threads": 1,
                "data": {"train": str(path / "train.tsv")},
                "tokenizer": {"kind": kind, "vocab_size": 60, **changes},
                "model": {"d_model": 64, "num_heads": 4, "d_ff": 128, "encoder_layers": 1, "decoder_layers": 1},
                "training": {"steps": steps, "batch_tokens": 512, "learning_rate": learning_rate, "warmup_steps": 20},
            }
            made[kind] = qkv.train(recipe, progress=False).path
        return made[kind]

    return train
