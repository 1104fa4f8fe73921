"""The gradient of a step, by one thread of Python or by several."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from qkv.config.schema import TrainingConfig
from qkv.devices import limit_this_thread
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch
from qkv.text.tokenizer import Tokenizer
from qkv.training.loss import Learner, Loss
from qkv.training.masks import drawing_from
from qkv.training.optimization import Optimization

_MOST_PARTS = 4  # each has a gradient of its own, as large as the model
_LEAST_TOKENS = 256  # of a part: with fewer, threads wait for each other in Python


class Gradient:
    """Adds a step's gradient to that of the parameters.

    On a CPU with several threads a batch is computed in parts, side by side: threads that share out every matrix
    product and every small operation between them wait for each other at each one. Parts of a batch are also padded
    less, as short targets stand together.

    Attributes:
        learner: computes the loss of a batch; for training in several processes it is what may be wrapped.
    """

    def __init__(
        self,
        model: Seq2Seq,
        optimization: Optimization,
        settings: TrainingConfig,
        device: torch.device,
        tokenizer: Tokenizer | None = None,
    ):
        self.learner: nn.Module = Learner(
            model,
            settings.label_smoothing,
            settings.precision,
            r_drop=settings.r_drop,
            token_dropout=settings.token_dropout,
            tokenizer=tokenizer,
        )
        self._model, self._optimization, self._device = model, optimization, device
        self._pool: ThreadPoolExecutor | None = None

    def add(self, batches: Sequence[Batch]) -> Loss:
        """Add the gradient of the mean loss per target token of all the batches; returns the losses' sums, detached."""
        tokens = sum(batch.num_target_tokens for batch in batches)
        smoothed = torch.zeros((), device=self._device)
        nll = torch.zeros((), device=self._device)
        for batch in batches:
            parts = batch.split(self._number_of_parts(batch))
            for loss in self._add_parts(parts, tokens) if len(parts) > 1 else [self._add_whole(batch, tokens)]:
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

    def _add_parts(self, parts: list[Batch], tokens: int) -> list[Loss]:
        # Chance begins with torch's generator, whose state checkpoints keep, and does not depend on who comes first.
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        scale = self._optimization.scale(torch.ones(()))
        parameters = list(self._model.parameters())
        threads = max(1, torch.get_num_threads() // len(parts))

        def compute(part: Batch, seed: int) -> tuple[Loss, list[Tensor | None]]:
            limit_this_thread(threads)
            with drawing_from(torch.Generator().manual_seed(seed)):
                loss: Loss = self.learner(part)
            gradients = torch.autograd.grad(loss.smoothed / tokens * scale, parameters, allow_unused=True)
            contiguous: list[Tensor | None] = [
                None if gradient is None else gradient.contiguous() for gradient in gradients
            ]
            return loss._replace(smoothed=loss.smoothed.detach()), contiguous

        if self._pool is None:
            self._pool = ThreadPoolExecutor(_MOST_PARTS)
        futures = [self._pool.submit(compute, *given) for given in zip(parts, seeds, strict=True)]
        wait(futures)  # whatever becomes of them: a fault in one leaves none at work
        losses, gradients_of_parts = zip(*(future.result() for future in futures), strict=True)
        for parameter, *gradients in zip(parameters, *gradients_of_parts, strict=True):
            for gradient in gradients:
                if gradient is not None:  # a sum is a new tensor, as gradients of two parameters may be one
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return list(losses)
