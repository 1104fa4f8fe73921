"""The whole state of a training, into a checkpoint and back: it goes on bit for bit as if it had never stopped."""

from pathlib import Path

import torch

from qkv.files import point
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import (
    TrainingState,
    load_model,
    read_state,
    read_tensors,
    save_checkpoint,
    set_weights,
    weights_of,
)
from qkv.run.preparation import Prepared
from qkv.training.optimization import Optimization


def save(prepared: Prepared, model: Seq2Seq, optimization: Optimization, state: TrainingState) -> None:
    """Write the checkpoint of this step, as `save_checkpoint` does."""
    device = model.output.weight.device
    tensors, state.loss_scale = optimization.state()
    tensors["random.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    save_checkpoint(
        prepared.run.checkpoint_path(state.step),
        model,
        prepared.model_options,
        prepared.config.model.architecture,
        state,
        weights=optimization.average,
        resume=tensors,
    )


def restore(prepared: Prepared, model: Seq2Seq, optimization: Optimization, checkpoint: Path) -> TrainingState:
    """Put back what the checkpoint holds, and return where training stood; `UserError` if it is damaged or unfit."""
    device = model.output.weight.device
    state = read_state(checkpoint)
    # Built only to be checked against this run's own model, whose parameters the optimizer holds already.
    weights = weights_of(load_model(checkpoint, prepared.config.model.architecture))
    tensors = read_tensors(checkpoint / "optimizer.safetensors")
    raw = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    set_weights(model, raw or weights, checkpoint)
    if optimization.average is not None:
        optimization.average = {name: tensor.to(device) for name, tensor in weights.items()}
    optimization.restore(tensors, state.loss_scale)
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    best = prepared.run.checkpoint_path(state.best_step)
    if best.is_dir():
        point(prepared.run.best_path, best)
    return state
