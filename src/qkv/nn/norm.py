"""Normalisation: why a Transformer has LayerNorm, and what happens with another, or none."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NormKind = Literal["layer", "batch", "none"]


class BatchNorm(nn.Module):
    """Every feature is normalised over all tokens of the batch (Ioffe & Szegedy 2015): images like it, text does not.

    While training, a token's result depends on its neighbours, on other sentences and on padding, and in a decoder even
    on later tokens; afterwards fixed averages stand in, which fit no batch exactly. LayerNorm (Ba et al. 2016) takes
    its statistics from one token alone, so nothing else can change a result. `momentum` is the newest batch's
    weight in the averages.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, d_model: int, *, momentum: float = 0.1, bias: bool = True):
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_variance", torch.ones(d_model))

    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Normalise by this batch while training, and by the running averages afterwards."""
        tokens = F.batch_norm(
            x.flatten(0, 1),
            self.running_mean,
            self.running_variance,
            self.weight,
            self.bias,
            training=self.training and x.shape[0] * x.shape[1] > 1,  # one token has no variance
            momentum=self.momentum,
        )
        return tokens.unflatten(0, x.shape[:2])


def make_norm(kind: NormKind, d_model: int, *, bias: bool = True) -> nn.Module:
    """A norm of the given kind; `none` leaves everything as it is."""
    if kind == "layer":
        return nn.LayerNorm(d_model, bias=bias)
    return BatchNorm(d_model, bias=bias) if kind == "batch" else nn.Identity()
