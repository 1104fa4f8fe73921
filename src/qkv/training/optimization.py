"""The optimizer, and the average of its weights."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from qkv.config.schema import TrainingConfig
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import weights_of
from qkv.training.adam import Adam
from qkv.training.muon import Muon, hidden_matrices
from qkv.training.schedule import Schedule

_MOMENTUM = 0.95


class Optimization:
    """Adam, AdamW, or Muon with AdamW for what is no hidden matrix; with clipping, fp16 loss scaling and an optional
    average of the weights.

    Matrices are decayed, biases and norms are not. Kingma & Ba 2015; Loshchilov & Hutter 2019; see `qkv.training.muon`.
    """

    def __init__(self, model: nn.Module, settings: TrainingConfig, device: torch.device):
        self._model, self._settings = model, settings
        self._named = list(model.named_parameters())
        hidden = dict(hidden_matrices(cast(Seq2Seq, model))) if settings.optimizer == "muon" else {}
        others = [p for p in model.parameters() if p not in hidden]
        adam = Adam(
            [
                {"params": [p for p in others if p.dim() >= 2], "weight_decay": settings.weight_decay},
                {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
            ],
            decoupled=settings.optimizer != "adam",
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
        )
        self._optimizers: list[Adam | Muon] = [adam]
        self._ratios = [1.0]
        if hidden:
            rate, decay = settings.muon_learning_rate, settings.weight_decay
            self._optimizers.append(Muon(hidden.items(), lr=rate, momentum=_MOMENTUM, weight_decay=decay))
            # Their rates rise and fall together.
            self._ratios.append(rate / Schedule.of(settings, cast(Seq2Seq, model).output.in_features).top)
        self._of = {p: each for each in self._optimizers for group in each.param_groups for p in group["params"]}
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self.average: dict[str, Tensor] | None = None
        if settings.ema:
            self.average = {name: tensor.clone() for name, tensor in weights_of(model).items()}

    def zero_grad(self) -> None:
        """Forget the gradient of the last step."""
        self._model.zero_grad(set_to_none=True)

    def scale(self, loss: Tensor) -> Tensor:
        """What the gradient is to be taken of: the loss itself, or so many times as much that fp16 can hold it."""
        return self._scaler.scale(loss)

    def step(self, number: int, learning_rate: float) -> Tensor:
        """Step 1, 2, …: clip, move the weights, and return the gradient's norm from before it was clipped."""
        for optimizer, ratio in zip(self._optimizers, self._ratios, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * ratio
            self._scaler.unscale_(optimizer)
        limit = float("inf") if self._settings.clip_norm is None else self._settings.clip_norm
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), limit, foreach=True)
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        if self.average is not None:
            # Early on the average follows closely, or it would remember the random start for long.
            decay = min(self._settings.ema, (1 + number) / (10 + number))
            current = weights_of(self._model)
            for name, tensor in self.average.items():
                tensor.lerp_(current[name], 1.0 - decay)
        return norm

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What it takes to go on: tensors (moments; raw weights if there is an average), and the loss scale."""
        states = {name: self._of[parameter].state.get(parameter, {}) for name, parameter in self._named}
        tensors = {f"{key}.{name}": value for name, state in states.items() for key, value in state.items()}
        if self.average is not None:
            tensors |= {f"weight.{name}": tensor for name, tensor in weights_of(self._model).items()}
        return tensors, self._scaler.state_dict()

    def restore(self, tensors: Mapping[str, Tensor], loss_scale: dict[str, float]) -> None:
        """Undo `state`. The raw weights are the caller's to put back."""
        for name, parameter in self._named:
            optimizer = self._of[parameter]
            keys = {key: f"{key}.{name}" for key in optimizer.kept}
            if keys[optimizer.kept[0]] in tensors:
                optimizer.state[parameter] = {key: tensors[own].to(parameter.device) for key, own in keys.items()}
        if loss_scale:
            self._scaler.load_state_dict(loss_scale)
