"""Training speed: every system makes whole steps on the same pairs, taking turns."""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware import NO_BF16, has_bf16
from material import Material
from process import System, noting
from theory import training_flops_per_target_token

COMMON = {"dropout": 0.1, "label_smoothing": 0.1, "learning_rate": 3e-4, "clip_norm": 1.0, "seed": 1}
SIZES: dict[str, dict[str, Any]] = {
    "small": {"d_model": 256, "num_heads": 4, "d_ff": 1024, "layers": 3, "batch_tokens": 4096},
    "base": {"d_model": 512, "num_heads": 8, "d_ff": 2048, "layers": 6, "batch_tokens": 1024},
}
ABOUT = {
    "qkv-float32": "qkv's Trainer, its own batches (rows × longest ≤ {batch_tokens} tokens)",
    "qkv-bf16": "the same with training.precision=bf16",
    "hf-marian": "MarianMTModel, attention by SDPA; the loop that its Trainer runs (clipping, fused Adam) without the"
    " Trainer's own costs; pairs sorted by length in pools of 50 batches, rows × longest ≤ {batch_tokens}",
    "torch-nn": "nn.Transformer, all logits, fused Adam; shuffled pairs padded to the longest, about {batch_tokens}"
    " real tokens a batch",
    "torch-nn-sorted": "the same, with the batches of hf-marian",
    "eole": "eole's Trainer, model, loss and iterator: token batches of {batch_tokens}, one bucket of the whole corpus"
    " sorted by length, no loader processes (with two cores they would compete), attention entropy not logged",
    "joeynmt": "JoeyNMT's TrainManager, model, loss and iterator: token batches of {batch_tokens}, which JoeyNMT does"
    " not sort by length; post-norm",
}
SYSTEMS = {"small": list(ABOUT), "base": ["qkv-float32", "qkv-bf16", "hf-marian", "torch-nn", "torch-nn-sorted"]}
SCRIPTS = {"qkv": "train_qkv.py", "hf": "train_hf.py", "torch": "train_torch_nn.py"} | {
    name: f"train_{name}.py" for name in ("eole", "joeynmt")
}


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        rounds: turns of each system.
        seconds: of training in each turn.
        warm_up: seconds before the first turn.
        batch_tokens: in place of the size's own; for smoke tests.
    """

    rounds: int
    seconds: float
    warm_up: float
    batch_tokens: int | None = None


def measure_training(
    size: str,
    wanted: list[str] | None,
    material: Material,
    pythons: dict[str, Path],
    threads: int,
    effort: Effort,
    scratch: Path,
) -> dict[str, Any]:
    """Train with each system in turn; a system that fails is reported, and the others go on.

    Args:
        size: small or base.
        wanted: names of systems; None for all.
        material: the shared pairs.
        pythons: interpreters, "qkv" and "peers".
        threads: of every system.
        effort: how long.
        scratch: a directory for runs and logs; what was there is removed.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    settings = SIZES[size] | COMMON | {"threads": threads}
    if effort.batch_tokens is not None:
        settings["batch_tokens"] = effort.batch_tokens
    names = [name for name in SYSTEMS[size] if wanted is None or name in wanted]
    failed = {name: NO_BF16 for name in names if name.endswith("bf16") and not has_bf16()}
    names = [name for name in names if name not in failed]
    systems = [_system(name, settings, material, pythons, scratch) for name in names]
    peak = System("peak", "theory.py", pythons["peers"], {"threads": threads}, threads, "")
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    rates = []
    try:
        peak.start(scratch)
        for system in systems:
            with noting(system, failed):
                system.start(scratch)
                system.ask("train", seconds=effort.warm_up, steps=1)
                print(f"    {system.name}: ready", flush=True)
        for number in range(effort.rounds):
            rates.append(peak.ask("multiply", seconds=2.0)["flops_per_second"])
            for system in systems if number % 2 == 0 else reversed(systems):
                if system.name not in failed:
                    with noting(system, failed):
                        turn = system.ask("train", seconds=effort.seconds, steps=1)
                        turns[system.name].append(turn)
                        speed = turn["tokens"] / turn["seconds"]
                        print(f"    round {number + 1}, {system.name}: {speed:,.0f} target tokens/s", flush=True)
    finally:
        for system in [peak, *systems]:
            system.stop()
    flops = training_flops_per_target_token(systems[0].options, *material.lengths())
    found = {s.name: _summary(s, turns[s.name], flops, max(rates)) for s in systems if s.name not in failed}
    return {
        "systems": found,
        "failed": failed,
        "matrix_product_flops_per_second": round(max(rates)),
        "matrix_product_flops_per_second_in_each_round": [round(rate) for rate in rates],
        "flops_per_target_token": round(flops),
        "settings": settings | {"rounds": effort.rounds, "seconds": effort.seconds},
    }


def _system(name: str, settings: dict[str, Any], material: Material, pythons: dict[str, Path], scratch: Path) -> System:
    family = name.partition("-")[0]
    options = settings | {
        "vocab_size": material.vocab_size,
        "material": str(material.path.resolve()),
        "pairs": str((material.path / "train.npz").resolve()),
        "run": str((scratch / name).resolve()),
        "precision": "bf16" if name.endswith("bf16") else "float32",
        "sorted": name.endswith("sorted"),
    }
    python = pythons["qkv" if family == "qkv" else "peers"]
    return System(name, SCRIPTS[family], python, options, settings["threads"], ABOUT[name].format(**options))


def _summary(system: System, turns: list[dict[str, Any]], flops: float, peak: float) -> dict[str, Any]:
    speeds = [turn["tokens"] / turn["seconds"] for turn in turns]
    median = statistics.median(speeds)
    return {
        "target_tokens_per_second": round(median, 1),
        "lowest": round(min(speeds), 1),
        "highest": round(max(speeds), 1),
        "target_tokens": sum(turn["tokens"] for turn in turns),
        "steps": sum(turn["steps"] for turn in turns),
        "loss_at_the_end": round(turns[-1]["loss"], 3),
        "share_of_matrix_product_peak": round(median * flops / peak, 4),
        "peak_memory_mb": system.peak_mb,
        "versions": system.versions,
        "about": system.about,
    }
