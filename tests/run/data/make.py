"""Writes a directory of small runs as this version of qkv writes them, and what they came to.

Once for each format, when it is released; then the directory stays as it is, for `tests/run/test_versions.py`:

    cd tests/run/data && python make.py version-2
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import qkv

SYLLABLES = {"ka": "mo", "to": "li", "mi": "fa", "re": "gu", "su": "pe", "ba": "do"}
MODELS = {
    "transformer": {"num_heads": 2, "d_ff": 16},
    "lstm-attention": {},
}
RESUMED = ["training.steps=620", "validation.every=20", "training.report_every=20"]
SOURCES = ["katomi", "resuba", "bato", "mire", "susuka", "tokaremi"]


def write_pairs(path: Path, count: int, seed: int) -> None:
    """Made-up words, and the same with every syllable exchanged for another."""
    chance = random.Random(seed)
    words = [chance.choices(list(SYLLABLES), k=chance.randint(1, 4)) for _ in range(count)]
    path.write_text("".join(f"{''.join(word)}\t{''.join(map(SYLLABLES.get, word))}\n" for word in words))


def recipe(run: Path, architecture: str) -> dict:
    """Everything small; accumulation, subword sampling and an average of the weights are on, as they have a state."""
    return {
        "run": str(run),
        "device": "cpu",
        "threads": 1,
        "data": {"train": "train.tsv", "validation": "validation.tsv"},
        "tokenizer": {"vocab_size": 24, "sampling": 0.1 if architecture == "transformer" else 0.0},
        "model": {
            "architecture": architecture,
            "d_model": 8,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "dropout": 0.1,
            **MODELS[architecture],
        },
        "training": {
            "steps": 600,
            "batch_tokens": 200,
            "accumulate": 2,
            "learning_rate": 2e-2,
            "warmup_steps": 50,
            "report_every": 200,
            "ema": 0.9,
        },
        "validation": {"every": 300, "metric": "cer", "samples": 1},
        "checkpoints": {"keep": 1},
    }


def outcome(run: Path) -> dict:
    """What a run gives: translations, log-probabilities, and the losses of some more steps."""
    translator = qkv.load(run, device="cpu")
    translations = translator.translate(SOURCES)
    scores = [score.log_probability for score in translator.score(list(zip(SOURCES, translations, strict=True)))]
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "run"
        shutil.copytree(run, copy, symlinks=True)
        resume = [sys.executable, "-m", "qkv", "train", "--resume", str(copy), "--quiet", *RESUMED]
        subprocess.run(resume, check=True, capture_output=True)
        lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    resumed = {line["event"]: line["loss"] for line in lines if line["step"] == 620}
    return {"sources": SOURCES, "translations": translations, "scores": scores, "resumed": resumed}


def main(directory: Path) -> None:
    """Both runs, and outcome.json beside each one's parts."""
    torch.set_num_threads(1)
    for architecture in MODELS:
        run = directory / architecture
        qkv.train(recipe(run, architecture), progress=False)
        shutil.rmtree(run / "tensorboard")
        (run / "report.html").unlink(missing_ok=True)
        (run / "outcome.json").write_text(json.dumps(outcome(run), indent=1) + "\n")


if __name__ == "__main__":
    for name, count, seed in (("train.tsv", 200, 1), ("validation.tsv", 12, 2)):
        if not Path(name).exists():
            write_pairs(Path(name), count, seed)
    main(Path(sys.argv[1]))
