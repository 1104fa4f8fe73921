"""Adam and AdamW, stepped by PyTorch's own functions, without the wait for its compiler."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw


class Adam(torch.optim.Optimizer):
    """torch.optim.Adam(fused=True), or AdamW, bit for bit, for real parameters on a CPU or a CUDA device.

    `kept` names what it keeps of each parameter.

    Making one of those loads the whole of torch.compile first: more than a second, for a compiler that is not used.
    Kingma & Ba 2015; Loshchilov & Hutter 2019.

    Args:
        groups: {"params": [...], "weight_decay": ...} each.
        decoupled: AdamW, whose weight decay is no part of the gradient.
        lr: learning rate; each group has its own under "lr", to be changed between steps.
        betas: how much of the first and of the second moment is kept at a step.
        eps: is added to the root of the second moment.
    """

    kept = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self, groups: list[dict[str, Any]], *, decoupled: bool, lr: float, betas: tuple[float, float], eps: float
    ):
        self._update = adamw if decoupled else adam
        # A gradient scaler then leaves it to the step to do nothing after an overflow, and need not wait for a GPU.
        self._step_supports_amp_scaling = True
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Have these parameters optimized, too."""
        self.param_groups.append(self.defaults | param_group)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing of ours evaluates a loss within a step
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in parameters]
            self._update(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Moments and number of steps, by the names that torch.optim.Adam has for them."""
        if not self.state[parameter]:
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
