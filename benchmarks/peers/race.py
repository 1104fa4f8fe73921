"""Quality against time: qkv for a third of the minutes that Hugging Face's Marian model has, on the same pairs.

    python benchmarks/peers/race.py --minutes 30 --threads 2

The model of Hugging Face is the one of `make bench` (3+3 layers, 256 wide, post-norm). qkv trains once that very shape
and once its own recipe for this data, recipes/multi30k-en-de.yaml. Same 8,000 pieces, same test set, beam 5.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from environment import peers_python
from hardware import hardware, now
from material import Material, prepare_material
from process import environment
from training_speed import COMMON, SIZES

from qkv.experiment.experiment import train
from qkv.files import write_text
from qkv.loading import load
from qkv.metrics.translation import BLEU
from qkv.run.checkpoint import read_state
from qkv.run.directory import Run
from run import ROOT, SEED, VOCAB_SIZE

HERE = Path(__file__).parent
SAME_SHAPE = {
    "model.preset": "small",
    "model.norm_position": "post",
    "model.position": "sinusoidal",
    "model.dropout": "0.1",
    "training.learning_rate": "1e-3",
}
PACE = {"learning_rate": 1e-3, "warmup_steps": 500}


def main() -> None:
    """Run who is asked for, and keep what they reached beside what others did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of Hugging Face; qkv has a third")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", default="hf-marian,qkv-small,qkv-recipe")
    parser.add_argument("--data", type=Path, default=ROOT / "data/multi30k")
    parser.add_argument("--build", type=Path, default=ROOT / "build/peers")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/race.json")
    options = parser.parse_args()
    material = prepare_material(options.build / "material", options.data.resolve(), VOCAB_SIZE, SEED)
    for name in options.systems.split(","):
        scratch = options.build / "race" / name
        scratch.mkdir(parents=True, exist_ok=True)
        if name == "hf-marian":
            python = peers_python(options.build)
            found = _hugging_face(material, python, scratch, options.minutes, options.threads)
        else:
            found = _qkv(name, material, scratch, options.minutes / 3, options.threads)
        found |= {"threads": options.threads, "hardware": hardware(), "measured": now()}
        print(name, json.dumps(found), flush=True)
        results = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
        write_text(options.out, json.dumps(results | {name: found}, indent=1) + "\n")


def _hugging_face(material: Material, python: Path, scratch: Path, minutes: float, threads: int) -> dict[str, Any]:
    settings = SIZES["small"] | COMMON | PACE
    files = {
        "pairs": material.path / "train.npz",
        "tokenizer": material.tokenizer,
        "sources": material.data / "test2016.en",
        "out": scratch / "found.json",
    }
    settings |= {name: str(path.resolve()) for name, path in files.items()}
    settings |= {"minutes": minutes, "threads": threads, "vocab_size": material.vocab_size}
    (scratch / "options.json").write_text(json.dumps(settings), encoding="utf-8")
    with open(scratch / "log.txt", "w", encoding="utf-8") as log:
        command = [python, HERE / "race_hf.py", scratch / "options.json"]
        subprocess.run(command, env=environment(threads), stdout=log, stderr=subprocess.STDOUT, check=True, cwd=HERE)
    found = json.loads((scratch / "found.json").read_text("utf-8"))
    return _reached(found, material)


def _qkv(name: str, material: Material, scratch: Path, minutes: float, threads: int) -> dict[str, Any]:
    run = scratch / "run"
    changes = {
        "run": str(run),
        "data.root": str(material.data),
        "threads": str(threads),
        "training.budget": f"{60 * minutes:.0f}s",
    }
    if name == "qkv-small":
        changes |= SAME_SHAPE
    train(ROOT / "recipes/multi30k-en-de.yaml", [f"{key}={value}" for key, value in changes.items()], progress=False)
    state = read_state(Run.open(run).checkpoints()[-1])
    sources, _ = material.test()
    outputs = load(run).translate(sources, beam=5)
    counted = {"seconds": state.seconds, "target_tokens": state.target_tokens, "steps": state.step}
    return _reached(counted | {"outputs": outputs}, material)


def _reached(found: dict[str, Any], material: Material) -> dict[str, Any]:
    _, references = material.test()
    score = BLEU(found["outputs"], [[reference] for reference in references])
    return {
        "bleu": round(score.value, 2),
        "minutes": round(found["seconds"] / 60, 2),
        "target_tokens": found["target_tokens"],
        "steps": found["steps"],
    }


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
