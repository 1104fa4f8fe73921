"""A step of training as the trainer takes it, to be timed: batches in parts by threads, and the optimizer's step."""

import copy
from collections.abc import Sequence

from qkv.config.schema import TrainingConfig
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch
from qkv.training.gradient import Gradient
from qkv.training.optimization import Optimization


class TrainingStep:
    """Takes steps with a copy of a model, whose weights stay where they are: the learning rate is 0.

    Args:
        model: on the device that is to be timed; it is not changed.
        settings: the recipe's training section.
    """

    def __init__(self, model: Seq2Seq, settings: TrainingConfig):
        device = next(model.parameters()).device
        self._model = copy.deepcopy(model).train()
        self._optimization = Optimization(self._model, settings, device)
        self._gradient = Gradient(self._model, self._optimization, settings, device)
        self._steps = 0

    def __call__(self, batches: Sequence[Batch]) -> None:
        """One step over batches that lie on the device."""
        self._steps += 1
        self._optimization.zero_grad()
        self._gradient.add(batches)
        self._optimization.step(self._steps, learning_rate=0.0)

    def close(self) -> None:
        """Let the threads end."""
        self._gradient.close()
