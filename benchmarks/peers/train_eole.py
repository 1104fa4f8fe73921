"""eole: its Trainer, model, loss, optimizer and bucketing iterator; only the loop around its step is ours."""

from pathlib import Path
from typing import Any

import torch
from eole.config.run import TrainConfig
from eole.constants import CorpusTask
from eole.inputters.dynamic_iterator import build_dynamic_dataset_iter
from eole.models.model import get_model_class
from eole.modules.transformer_mlp import MLP
from eole.train_single import TrainingInitializer, configure_process
from eole.trainer import build_trainer
from eole.utils import Statistics
from eole.utils.optimizers import Optimizer
from worker import Command, serve, training

CPU = -1


def configuration(options: dict[str, Any]) -> dict[str, Any]:
    """An eole configuration file as a dictionary. Its decoder knows pre-norm only, so both stacks are pre-norm."""
    material = Path(options["material"])
    return {
        "seed": options["seed"],
        "share_vocab": True,
        "src_vocab": str(material / "vocabulary.txt"),
        "tgt_vocab": str(material / "vocabulary.txt"),
        "data": {
            "train": {
                "path_src": str(material / "train.en"),
                "path_tgt": str(material / "train.de"),
                "transforms": [],
                "weight": 1,
            }
        },
        "model": {
            "architecture": "transformer",
            "hidden_size": options["d_model"],
            "layers": options["layers"],
            "heads": options["num_heads"],
            "transformer_ff": options["d_ff"],
            "embeddings": {
                "word_vec_size": options["d_model"],
                "position_encoding": True,
                "position_encoding_type": "SinusoidalInterleaved",
            },
            "share_embeddings": True,
            "share_decoder_embeddings": True,
            "generator_bias": False,
            "add_qkvbias": True,
            "add_final_linear_bias": True,
            "add_ffnbias": True,
        },
        "training": {
            "optim": "adam",
            "adam_beta2": 0.98,
            "learning_rate": options["learning_rate"],
            "max_grad_norm": options["clip_norm"],
            "label_smoothing": options["label_smoothing"],
            "dropout": [options["dropout"]],
            "attention_dropout": [0.0],
            "param_init_method": "xavier_uniform",
            "batch_type": "tokens",
            "batch_size": options["batch_tokens"],
            "normalization": "tokens",
            "bucket_size": 29_000,
            "num_workers": 0,
            "model_path": options["run"],
            "log_attention_entropy": False,
            "compute_dtype": "fp32",
        },
    }


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    torch.set_num_threads(options["threads"])
    config = TrainConfig(**configuration(options))
    configure_process(config, CPU)
    context = TrainingInitializer(config).initialize()
    model = get_model_class(config.model).for_training(
        config.model, context.vocabs, config.training, metadata=None, device_id=CPU
    )
    for module in model.modules():
        if isinstance(module, MLP):  # no dropout inside the feed-forward layer, as in the other systems
            module.dropout_1.p = 0.0
    optimizer = Optimizer.from_config(model, config, metadata=None)
    trainer = build_trainer(config, CPU, model, context.vocabs, optimizer)
    iterator = build_dynamic_dataset_iter(
        config, context.transforms, context.vocabs, task=CorpusTask.TRAIN, stride=1, offset=0, device_id=CPU
    )
    steps = trainer._accum_batches(iterator)

    def step() -> tuple[int, float]:
        batches, normalization = next(steps)
        report = Statistics()
        trainer._train_step(batches, normalization, Statistics(), report, step=optimizer.training_step)
        return int(report.n_tokens), report.loss / report.n_tokens

    return training(step)


if __name__ == "__main__":
    serve(build)
