"""What training calls: a batch in, its label-smoothed cross entropy out, without ever holding all logits."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qkv.devices import Precision, autocast
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch

# Logits alive at once: about what a CPU's last cache level holds; a GPU wants larger matrix products.
_LOGITS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}


class Loss(NamedTuple):
    """Sums over target tokens (divide once, by all tokens of the step).

    Attributes:
        smoothed: what is minimised; differentiable.
        nll: negative log-likelihood of the reference in nats, without smoothing; for reports.
        tokens: how many there are.
    """

    smoothed: Float[Tensor, ""]
    nll: Float[Tensor, ""]
    tokens: int


class Learner(nn.Module):
    """A model as training sees it: a batch in, a loss out. DDP or `fully_shard` is put around this, if any."""

    def __init__(self, model: Seq2Seq, label_smoothing: float = 0.0, precision: Precision = "float32"):
        super().__init__()
        self.model, self._label_smoothing, self._precision = model, label_smoothing, precision

    def forward(self, batch: Batch) -> Loss:
        """See `batch_loss`; matrix products are of the precision that was given."""
        with autocast(batch.source.device, self._precision):
            return batch_loss(self.model, batch, self._label_smoothing)


def batch_loss(model: Seq2Seq, batch: Batch, label_smoothing: float = 0.0) -> Loss:
    """Loss of a batch under teacher forcing, summed over its real target tokens."""
    hidden = model.decode(batch.target_input, model.encode(batch.source, batch.source_mask))
    if batch.target_mask is None:
        real, targets = hidden.flatten(0, 1), batch.target_output.flatten()
    else:
        real, targets = hidden[batch.target_mask], batch.target_output[batch.target_mask]
    return projected_cross_entropy(real, model.output, targets, label_smoothing)


def projected_cross_entropy(
    hidden: Float[Tensor, "token d_model"],
    output: nn.Linear,
    targets: Int[Tensor, " token"],
    label_smoothing: float = 0.0,
) -> Loss:
    """Cross entropy of softmax(output(hidden)) with smoothed labels (Szegedy et al. 2016, section 7), summed.

    Equal to `F.cross_entropy(output(hidden), targets, label_smoothing=…, reduction="sum")`. Logits are made, turned
    into their own gradient and forgotten a slice at a time, so that they stay in the cache and the memory needed does
    not grow with tokens × vocabulary.
    """
    given = hidden, output.weight, output.bias, targets, label_smoothing, torch.is_grad_enabled()
    smoothed, nll = _ProjectedCrossEntropy.apply(*given)
    return Loss(smoothed, nll, len(targets))


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float,
        wants_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        vocab = weight.shape[0]
        precise = torch.promote_types(hidden.dtype, torch.float32)
        smoothed, nll = hidden.new_zeros((), dtype=precise), hidden.new_zeros((), dtype=precise)
        projection = weight.to(compute)
        grad_hidden = torch.empty_like(hidden) if wants_gradient else None
        grad_weight = torch.zeros_like(weight) if wants_gradient else None
        grad_bias = torch.zeros_like(bias) if wants_gradient and bias is not None else None
        rows = max(1, _LOGITS_AT_ONCE.get(device, 2**22) // vocab)
        for first in range(0, hidden.shape[0], rows):
            part = slice(first, first + rows)
            states, labels = hidden[part].to(compute), targets[part, None]
            logits = (states @ projection.T).to(precise)
            if bias is not None:
                logits += bias
            log_probability = logits.log_softmax(dim=-1)
            part_nll = -log_probability.gather(1, labels).sum()
            nll += part_nll
            smoothed += (1.0 - label_smoothing) * part_nll
            if label_smoothing > 0.0:
                smoothed -= label_smoothing / vocab * log_probability.sum()
            if grad_hidden is None or grad_weight is None:
                continue
            # d loss / d logits = softmax − smoothed one-hot
            grad = log_probability.exp_()
            if label_smoothing > 0.0:
                grad -= label_smoothing / vocab
            grad.scatter_add_(1, labels, grad.new_full(labels.shape, label_smoothing - 1.0))
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(compute)
            grad_hidden[part] = grad @ projection
            if compute == weight.dtype:
                grad_weight.addmm_(grad.T, states)
            else:
                grad_weight += grad.T @ states
        if wants_gradient:
            ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return smoothed, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad_outputs[0]
        of_hidden_weight_bias = (None if grad is None else grad * factor.to(grad.dtype) for grad in ctx.saved_tensors)
        return *of_hidden_weight_bias, None, None, None
