"""What training calls: a batch in, its label-smoothed cross entropy out, without ever holding all logits."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qkv.devices import Precision, autocast
from qkv.nn.dropout import dropout
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch
from qkv.text.tokenizer import Tokenizer

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
    """A model as training sees it: a batch in, a loss out. DDP or `fully_shard` is put around this, if any.

    Args:
        model: what learns.
        label_smoothing: see `projected_cross_entropy`.
        precision: of matrix products.
        r_drop: weight of R-Drop, see `consistent_cross_entropy`; 0: a single pass.
        token_dropout: share of the source's tokens that are read as unknown ones, while training (Sennrich et al. 2016,
            "Edinburgh Neural Machine Translation Systems for WMT 16", section 2.4, which leaves out whole words).
        tokenizer: of the source; needed for token_dropout.
    """

    def __init__(
        self,
        model: Seq2Seq,
        label_smoothing: float = 0.0,
        precision: Precision = "float32",
        *,
        r_drop: float = 0.0,
        token_dropout: float = 0.0,
        tokenizer: Tokenizer | None = None,
    ):
        super().__init__()
        self.model, self._label_smoothing, self._precision = model, label_smoothing, precision
        self._r_drop, self._token_dropout, self._tokenizer = r_drop, token_dropout, tokenizer

    def forward(self, batch: Batch) -> Loss:
        """The loss of a batch under teacher forcing, summed over its real target tokens."""
        if self.model.training and self._token_dropout:
            batch = replace(batch, source=self._forgetting(batch.source))
        with autocast(batch.source.device, self._precision):
            if self.model.training and self._r_drop:
                # Both passes at once: dropout does to one what it does not to the other.
                hidden, targets = _states(self.model, batch.repeated(2))
                return consistent_cross_entropy(hidden, self.model.output, targets, self._label_smoothing, self._r_drop)
            return batch_loss(self.model, batch, self._label_smoothing)

    def _forgetting(self, source: Tensor) -> Tensor:
        assert self._tokenizer is not None
        kept = dropout(torch.ones(source.shape, device=source.device), self._token_dropout) > 0
        kept |= (source == self._tokenizer.eos) | (source == self._tokenizer.pad)
        return source.where(kept, torch.full_like(source, self._tokenizer.unk))


def batch_loss(model: Seq2Seq, batch: Batch, label_smoothing: float = 0.0) -> Loss:
    """Loss of a batch under teacher forcing, summed over its real target tokens."""
    hidden, targets = _states(model, batch)
    return projected_cross_entropy(hidden, model.output, targets, label_smoothing)


def _states(model: Seq2Seq, batch: Batch) -> tuple[Float[Tensor, "token d_model"], Int[Tensor, " token"]]:
    """What each real target token is predicted from, and which one it is."""
    hidden = model.decode(batch.target_input, model.encode(batch.source, batch.source_mask))
    if batch.target_mask is None:
        return hidden.flatten(0, 1), batch.target_output.flatten()
    return hidden[batch.target_mask], batch.target_output[batch.target_mask]


def consistent_cross_entropy(
    hidden: Float[Tensor, "two_tokens d_model"],
    output: nn.Linear,
    targets: Int[Tensor, " two_tokens"],
    label_smoothing: float,
    weight: float,
) -> Loss:
    """R-Drop (Wu et al. 2021, equation 4, halved): two passes learn the targets, and to agree with each other.

    The loss is the mean of both passes' cross entropies, and `weight` / 4 times the divergence of either from the
    other. All tokens of the first pass come before those of the second. All logits are held at once.
    """
    logits = output(hidden)
    log_probabilities = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    nll = F.nll_loss(log_probabilities, targets, reduction="sum") / 2
    smoothed = (1.0 - label_smoothing) * nll - label_smoothing * log_probabilities.mean(dim=-1).sum() / 2
    first, second = log_probabilities.chunk(2)
    # KL(p, q) + KL(q, p) = Σ (p − q) (log p − log q)
    divergence = ((first.exp() - second.exp()) * (first - second)).sum()
    return Loss(smoothed + weight / 4 * divergence, nll.detach(), len(targets) // 2)


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
