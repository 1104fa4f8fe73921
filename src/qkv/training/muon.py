"""Muon: steps along the orthogonalised momentum of each hidden matrix (Jordan 2024).

A gradient of a matrix is mostly a few directions. Its nearest orthogonal matrix has all of them alike, so that what is
rare is learnt as fast as what is common. A step is scaled to the size of one of Adam's (Liu et al. 2025, "Muon is
scalable for LLM training", section 2.2), so that its learning rate is of the same order.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.nn.attention import StackedLinear
from qkv.nn.seq2seq import Seq2Seq

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration that pushes every singular value towards 1
_ITERATIONS = 5
_ADAM_SIZE = 0.2  # the root mean square of Adam's usual step, per unit of learning rate


def hidden_matrices(model: Seq2Seq) -> Iterator[tuple[nn.Parameter, int]]:
    """The matrices between embeddings and output, each with the number of maps that are stacked in it.

    Queries, keys and values have maps of their own, and so have the gates of a recurrent cell.
    """
    others = {id(model.output.weight)}
    others |= {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.RNNBase):
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 2 and id(parameter) not in others:
                    yield parameter, _parts(module, parameter)


def _parts(module: nn.Linear | nn.RNNBase, matrix: nn.Parameter) -> int:
    if isinstance(module, nn.RNNBase):
        return len(matrix) // module.hidden_size
    return module.out_features // module.in_features if isinstance(module, StackedLinear) else 1


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, matrices of one shape in one product.

    Args:
        matrices: parameters of two dimensions, with the number of maps stacked in each; see `hidden_matrices`.
        lr: learning rate; the group's own stands under "lr", to be changed between steps.
        momentum: how much of the running mean of the gradient is kept at a step.
        weight_decay: pull towards zero, apart from the gradient.

    `kept` names what it keeps of each matrix.
    """

    kept = ("momentum",)

    def __init__(
        self, matrices: Iterable[tuple[nn.Parameter, int]], *, lr: float, momentum: float, weight_decay: float
    ):
        self._parts = dict(matrices)
        super().__init__(list(self._parts), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing of ours evaluates a loss within a step
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)  # by the shape of the maps in them
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                mean = self._mean_of(matrix).lerp_(matrix.grad, 1.0 - group["momentum"])
                update = matrix.grad.lerp(mean, group["momentum"])
                maps = update.view(self._parts[matrix], -1, update.shape[1])
                alike[maps.shape[1:]].append((matrix, maps))
                if group["weight_decay"]:
                    matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
            for shape, members in alike.items():
                steps = orthogonal(torch.cat([maps for _, maps in members]))
                size = -group["lr"] * _ADAM_SIZE * max(shape) ** 0.5
                shares = steps.split([len(maps) for _, maps in members])
                for (matrix, _), share in zip(members, shares, strict=True):
                    matrix.add_(share.reshape(matrix.shape), alpha=size)

    def _mean_of(self, matrix: nn.Parameter) -> Tensor:
        """The running mean of its gradient."""
        if not self.state[matrix]:
            self.state[matrix] = {"momentum": torch.zeros_like(matrix)}
        mean: Tensor = self.state[matrix]["momentum"]
        return mean


def orthogonal(matrices: Float[Tensor, "count rows columns"]) -> Float[Tensor, "count rows columns"]:
    """Each matrix with all of its singular values brought to about 1, by Newton and Schulz's iteration.

    In bfloat16 on a GPU, which is exact enough; a CPU may have to emulate it.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide.to(torch.bfloat16) if wide.is_cuda else wide.float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=second, alpha=third), x, beta=first)
    return (x if wide is matrices else x.mT).to(matrices.dtype)
