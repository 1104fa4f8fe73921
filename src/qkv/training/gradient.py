"""The gradient of a step, by one thread of Python or by several."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qkv.config.schema import TrainingConfig
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch
from qkv.training.loss import Learner, Loss
from qkv.training.masks import drawing_from
from qkv.training.optimization import Optimization

_MOST_PARTS = 4  # each has a gradient of its own, as large as the model
_LEAST_TOKENS = 256  # of a part: with fewer, threads wait for each other in Python


class _Part(NamedTuple):
    loss: Loss
    gradients: list[Tensor | None]


class Gradient:
    """Adds a step's gradient to that of the parameters.

    On a CPU with several threads a batch is computed in parts, side by side: threads that share out every matrix
    product and every small operation between them wait for each other at each one. Parts of a batch are also padded
    less, as short targets stand together.

    Args:
        model: in training mode.
        optimization: scales what the gradient is taken of.
        settings: the recipe's training section.
        device: where the model is.

    Attributes:
        learner: computes the loss of a batch; for training in several processes it is what may be wrapped.
    """

    def __init__(self, model: Seq2Seq, optimization: Optimization, settings: TrainingConfig, device: torch.device):
        self.learner: nn.Module = Learner(model, settings.label_smoothing, settings.precision)
        self._model, self._optimization, self._device = model, optimization, device
        self._pool: ThreadPoolExecutor | None = None

    def add(self, batches: Sequence[Batch]) -> Loss:
        """Add the gradient of the mean loss per target token of all the batches; returns the losses' sums, detached."""
        tokens = sum(batch.num_target_tokens for batch in batches)
        smoothed = torch.zeros((), device=self._device)
        nll = torch.zeros((), device=self._device)
        for batch in batches:
            parts = batch.split(self._number_of_parts(batch))
            loss = self._add_parts(parts, tokens) if len(parts) > 1 else self._add_whole(batch, tokens)
            smoothed += loss.smoothed
            nll += loss.nll
        return Loss(smoothed, nll, tokens)

    def close(self) -> None:
        """Let the threads end."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _number_of_parts(self, batch: Batch) -> int:
        alone = type(self.learner) is Learner  # what is wrapped, or sharded in place, wants a whole batch
        if self._device.type != "cpu" or not self._model.divisible or not alone:
            return 1
        return max(1, min(torch.get_num_threads(), _MOST_PARTS, batch.target_output.numel() // _LEAST_TOKENS))

    def _add_whole(self, batch: Batch, tokens: int) -> Loss:
        with drawing_from() if self._device.type == "cpu" else nullcontext():
            loss: Loss = self.learner(batch)
        self._optimization.scale(loss.smoothed / tokens).backward()
        return loss._replace(smoothed=loss.smoothed.detach())

    def _add_parts(self, parts: list[Batch], tokens: int) -> Loss:
        # Chance begins with torch's generator, whose state checkpoints keep, and does not depend on who comes first.
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        scale = self._optimization.scale(torch.ones(()))
        parameters = list(self._model.parameters())

        threads = torch.get_num_threads()
        of_each = max(1, threads // len(parts))

        def compute(part: Batch, seed: int) -> _Part:
            torch.set_num_threads(of_each)
            with drawing_from(torch.Generator().manual_seed(seed)):
                loss: Loss = self.learner(part)
            gradients = torch.autograd.grad(loss.smoothed / tokens * scale, parameters, allow_unused=True)
            return _Part(
                loss._replace(smoothed=loss.smoothed.detach()),
                [None if gradient is None else gradient.contiguous() for gradient in gradients],
            )

        if self._pool is None:
            self._pool = ThreadPoolExecutor(_MOST_PARTS)
        futures = [self._pool.submit(compute, *given) for given in zip(parts, seeds, strict=True)]
        try:
            wait(futures)
        finally:
            torch.set_num_threads(threads)  # MKL has one number for all
        done = [future.result() for future in futures]
        for part in done:
            _add(parameters, part.gradients)
        smoothed, nll, counts = zip(*(part.loss for part in done), strict=True)
        return Loss(torch.stack(smoothed).sum(), torch.stack(nll).sum(), sum(counts))


def _add(parameters: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    """Add to what the parameters have. Sums are new tensors, as gradients of two parameters may be one tensor."""
    pairs = [(p, gradient) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    more = [(p, p.grad, gradient) for p, gradient in pairs if p.grad is not None]
    for parameter, gradient in pairs:
        if parameter.grad is None:
            parameter.grad = gradient
    if more:
        changed, before, added = zip(*more, strict=True)
        for parameter, total in zip(changed, torch._foreach_add(before, added), strict=True):
            parameter.grad = total
