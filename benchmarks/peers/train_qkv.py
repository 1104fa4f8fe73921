"""qkv's own trainer, fed by its own batches."""

from pathlib import Path
from typing import Any

import torch
from worker import Command, serve, training

from qkv.config.loading import load_config
from qkv.devices import keep_freed_memory
from qkv.run.preparation import prepare
from qkv.training.records import Window
from qkv.training.trainer import Trainer


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`. The run shares the tokenizer and the encoded pairs with all systems."""
    torch.set_num_threads(options["threads"])
    keep_freed_memory()
    run, material = Path(options["run"]), Path(options["material"])
    run.mkdir(parents=True)
    for shared in ("tokenizer", "encoded"):
        (run / shared).symlink_to(material / "run" / shared, target_is_directory=True)
    changes = {
        "run": str(run),
        "seed": options["seed"],
        "device": "cpu",
        "threads": options["threads"],
        "model": {
            "architecture": "transformer",
            "d_model": options["d_model"],
            "num_heads": options["num_heads"],
            "d_ff": options["d_ff"],
            "encoder_layers": options["layers"],
            "decoder_layers": options["layers"],
            "dropout": options["dropout"],
            "position": "sinusoidal",
            "norm_position": "post",
            "tie": "all",
        },
        "training": {
            "steps": 1_000_000,
            "batch_tokens": options["batch_tokens"],
            "optimizer": "adam",
            "learning_rate": options["learning_rate"],
            "schedule": "constant",
            "warmup_steps": 0,
            "label_smoothing": options["label_smoothing"],
            "clip_norm": options["clip_norm"],
            "precision": options["precision"],
        },
    }
    config = load_config(load_config(material / "recipe.yaml").model_dump() | changes)
    trainer = Trainer(prepare(config, resume=True), torch.device("cpu"), progress=False)
    steps = trainer._steps()

    def step() -> tuple[int, float]:
        batches = next(steps)
        trainer.window = Window(trainer.device)
        trainer._step(batches)
        return sum(batch.num_target_tokens for batch in batches), trainer.window.loss

    return training(step)


if __name__ == "__main__":
    serve(build)
