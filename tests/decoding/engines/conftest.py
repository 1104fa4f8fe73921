"""A run that has learnt to copy words."""

import pytest

import qkv

WORDS = ["abba", "bead", "cab", "dad", "face", "bag", "cafe", "fade"]


@pytest.fixture(scope="session")
def words():
    """What it copies."""
    return sorted(WORDS)


@pytest.fixture(scope="module")
def run(tmp_path_factory, without_shape_checks):
    """Its directory."""
    directory = tmp_path_factory.mktemp("copy")
    (directory / "train.tsv").write_text("".join(f"{word}\t{word}\n" for word in WORDS * 20))
    recipe = {
        "run": str(directory / "run"),
        "device": "cpu",
        "threads": 1,
        "data": {"train": str(directory / "train.tsv")},
        "tokenizer": {"kind": "char"},
        "model": {"d_model": 32, "num_heads": 2, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 1},
        "training": {"steps": 60, "batch_tokens": 512, "learning_rate": 5e-3, "warmup_steps": 20},
    }
    return qkv.train(recipe, progress=False).path
