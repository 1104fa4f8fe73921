"""JoeyNMT: its TrainManager, model, loss, data set and token batches; only the loop around its step is ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from joeynmt.batch import Batch
from joeynmt.config import parse_global_args
from joeynmt.prediction import prepare
from joeynmt.training import TrainManager
from joeynmt.transformer_layers import MultiHeadedAttention, PositionwiseFeedForward
from torch import nn
from worker import Command, serve, training


def configuration(options: dict[str, Any]) -> dict[str, Any]:
    """A JoeyNMT configuration file as a dictionary. Its token budget is rows × longest, like everyone's."""
    material, width = Path(options["material"]), options["d_model"]

    def side(language: str) -> dict[str, Any]:
        vocabulary = str(material / "vocabulary.txt")
        return {"lang": language, "level": "word", "voc_file": vocabulary, "max_length": 128}

    def stack() -> dict[str, Any]:
        return {
            "type": "transformer",
            "num_layers": options["layers"],
            "num_heads": options["num_heads"],
            "hidden_size": width,
            "ff_size": options["d_ff"],
            "dropout": options["dropout"],
            "layer_norm": "post",
            "embeddings": {"embedding_dim": width, "scale": True, "dropout": options["dropout"]},
        }

    return {
        "name": "bench",
        "model_dir": options["run"],
        "use_cuda": False,
        "random_seed": options["seed"],
        "data": {
            "train": str(material / "train"),
            "dataset_type": "plain",
            "src": side("en"),
            "trg": side("de"),
        },
        "model": {
            "initializer": "xavier_uniform",
            "embed_initializer": "xavier_uniform",
            "tied_embeddings": True,
            "tied_softmax": True,
            "encoder": stack(),
            "decoder": stack(),
        },
        "training": {
            "optimizer": "adam",
            "adam_betas": [0.9, 0.98],
            "learning_rate": options["learning_rate"],
            "scheduling": "warmupinversesquareroot",
            "learning_rate_warmup": 1,
            "clip_grad_norm": options["clip_norm"],
            "label_smoothing": options["label_smoothing"],
            "normalization": "tokens",
            "batch_type": "token",
            "batch_size": options["batch_tokens"],
            "epochs": 1_000,
            "shuffle": True,
        },
        "testing": {},
    }


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    torch.set_num_threads(options["threads"])
    Path(options["run"]).mkdir(parents=True)
    args = parse_global_args(configuration(options), rank=0, mode="train")
    model, pairs, _, _ = prepare(args, rank=0, mode="train")
    only_residual_dropout(model)
    manager = TrainManager(
        rank=0,
        model=model,
        model_dir=args.model_dir,
        device=args.device,
        autocast=args.autocast,
        seed=args.seed,
        train_args=args.train,
        dev_args=args.test,
    )

    def batches() -> Iterator[Batch]:
        iterator = pairs.make_iter(
            batch_size=args.train.batch_size,
            batch_type=args.train.batch_type,
            seed=args.seed,
            shuffle=True,
            device=args.device,
            pad_index=model.pad_index,
            eos_index=model.eos_index,
        )
        epoch = 0
        while True:
            iterator.batch_sampler.set_seed(args.seed + epoch)
            yield from iterator
            epoch += 1

    endless = batches()

    def step() -> tuple[int, float]:
        batch = next(endless)
        loss, _ = manager._train_step(batch)
        manager.clip_grad_fun(parameters=model.parameters())
        manager.optimizer.step()
        model.zero_grad()
        return batch.ntokens, loss

    return training(step)


def only_residual_dropout(model: nn.Module) -> None:
    """No dropout on attention weights and inside the feed-forward layer, as in the other systems."""
    for module in model.modules():
        if isinstance(module, MultiHeadedAttention):
            module.dropout.p = 0.0
        elif isinstance(module, PositionwiseFeedForward):
            module.pwff_layer[2].p = 0.0


if __name__ == "__main__":
    serve(build)
