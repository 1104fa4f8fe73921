"""The optimizer, and the average of its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qkv.config.schema import TrainingConfig
from qkv.run.checkpoint import weights_of
from qkv.training.adam import Adam


class Optimization:
    """Adam or AdamW over a model, with clipping, fp16 loss scaling and an optional average of the weights.

    Matrices are decayed, biases and norms are not. Kingma & Ba 2015; Loshchilov & Hutter 2019.
    """

    def __init__(self, model: nn.Module, settings: TrainingConfig, device: torch.device):
        self._model, self._settings = model, settings
        self._named = list(model.named_parameters())
        self._adam = Adam(
            [
                {"params": [p for _, p in self._named if p.dim() >= 2], "weight_decay": settings.weight_decay},
                {"params": [p for _, p in self._named if p.dim() < 2], "weight_decay": 0.0},
            ],
            decoupled=settings.optimizer == "adamw",
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
        )
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
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._scaler.unscale_(self._adam)
        limit = float("inf") if self._settings.clip_norm is None else self._settings.clip_norm
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), limit, foreach=True)
        self._scaler.step(self._adam)
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
        states = {name: self._adam.state.get(parameter, {}) for name, parameter in self._named}
        tensors = {f"{key}.{name}": value for name, state in states.items() for key, value in state.items()}
        if self.average is not None:
            tensors |= {f"weight.{name}": tensor for name, tensor in weights_of(self._model).items()}
        return tensors, self._scaler.state_dict()

    def restore(self, tensors: Mapping[str, Tensor], loss_scale: dict[str, float]) -> None:
        """Undo `state`. The raw weights are the caller's to put back."""
        for name, parameter in self._named:
            keys = {key: f"{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            if keys["step"] in tensors:
                self._adam.state[parameter] = {key: tensors[own].to(parameter.device) for key, own in keys.items()}
        if loss_scale:
            self._scaler.load_state_dict(loss_scale)
