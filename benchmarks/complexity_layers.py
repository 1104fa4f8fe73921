"""One layer of each kind in Table 1 of Vaswani et al. 2017, behind one face: with what the table says of it, how to run
it over a whole sequence and one token at a time, and how far a signal travels through it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.nn import MultiHeadAttention, Recurrence, attention
from qkv.nn.attention import KeyValue
from qkv.nn.convolutional import GatedConvolution
from qkv.nn.recurrence import Hidden

HEADS = 4
KERNEL = 3
"""k: neighbours that a convolution reads."""
REACH = 16
"""r: neighbours that restricted attention looks at."""


class Layer(nn.Module, ABC):
    """A layer that maps a sequence to one of equal length and width.

    Attributes:
        name: as the table calls it.
        complexity: the table's operations per layer.
        sequential: the table's operations that have to wait for each other.
        path: the table's maximum path length between two positions; for a convolution that of contiguous kernels,
            which the paper's text gives, while the table's is that of dilated ones.
        counted: the multiplications of `operations`, as a formula.
    """

    name: ClassVar[str]
    complexity: ClassVar[str]
    sequential: ClassVar[str]
    path: ClassVar[str]
    counted: ClassVar[str]

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    @abstractmethod
    def operations(self, length: int) -> int:
        """Multiplications that the layer takes for a sequence, with the projections that the table leaves out."""

    @abstractmethod
    def step_operations(self, length: int) -> int:
        """Multiplications for one more token after `length` earlier ones."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """The whole sequence at once."""

    @abstractmethod
    def read(self, x: Float[Tensor, "batch length d_model"]) -> Any:
        """What a decoder keeps of the tokens so far."""

    @abstractmethod
    def step(self, token: Float[Tensor, "batch 1 d_model"], state: Any) -> Float[Tensor, "batch 1 d_model"]:
        """The output for one more token. The state stays as it was, so that the same step can be timed again."""

    def path_length(self, length: int) -> int:
        """How many layers it takes until the last output depends on the first input: until its gradient is not zero."""
        stack: list[Layer] = []
        for layers in count(1):
            stack.append(type(self)(self.width).to(next(self.parameters()).dtype))
            if _first_reaches_last(nn.Sequential(*stack), length, self):
                return layers
        raise AssertionError("count() does not end")


class SelfAttention(Layer):
    """Every position looks at all; only the attention of a Transformer's layer, as in the table."""

    name, complexity, sequential, path = "self-attention", "n²·d", "1", "1"
    counted = "2·n²·d + 4·n·d²"

    def __init__(self, width: int):
        super().__init__(width)
        self.attention = MultiHeadAttention(width, HEADS)

    def operations(self, length: int) -> int:
        """See `Layer.operations`: scores and sums; projections of query, key, value and output."""
        return length * self.step_operations(length - 1)

    def step_operations(self, length: int) -> int:
        """See `Layer.step_operations`."""
        return 2 * (length + 1) * self.width + 4 * self.width**2

    def forward(self, x: Tensor) -> Tensor:
        """See `Layer.forward`."""
        return self.attention(x)[0]

    def read(self, x: Tensor) -> KeyValue:
        """See `Layer.read`: all keys and values, with room for one more."""
        seen = self.attention.project_key_value(x)
        return KeyValue(*(F.pad(heads, (0, 0, 0, 1)) for heads in (seen.key, seen.value)))

    def step(self, token: Tensor, state: KeyValue) -> Tensor:
        """See `Layer.step`."""
        query, new = self.attention.project_all(token)
        state.key[:, :, -1:], state.value[:, :, -1:] = new.key, new.value
        return self.attention.attend(query, state)[0]


class RestrictedAttention(SelfAttention):
    """Every position looks at itself and the r − 1 before it, in blocks: a block of r queries, with 2·r keys."""

    name, complexity, path = "restricted self-attention", "r·n·d", "n/r"
    counted = "4·r·n·d + 4·n·d²"

    def operations(self, length: int) -> int:
        """See `Layer.operations`: blocks compute twice the scores that are needed."""
        return length * (4 * REACH * self.width + 4 * self.width**2)

    def step_operations(self, length: int) -> int:
        """See `Layer.step_operations`: a single query needs no block."""
        return 2 * min(REACH, length + 1) * self.width + 4 * self.width**2

    def forward(self, x: Tensor) -> Tensor:
        """See `Layer.forward`."""
        batch, length, _ = x.shape
        blocks = -(-length // REACH)
        missing = blocks * REACH - length
        query, (key, value, _) = self.attention.project_all(x)
        query = F.pad(query, (0, 0, 0, missing)).unflatten(2, (blocks, REACH))
        key, value = (
            F.pad(part, (0, 0, REACH, missing)).unfold(2, 2 * REACH, REACH).transpose(-1, -2) for part in (key, value)
        )
        # Blocks become rows, as fused kernels take no more than four axes.
        query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
        mask = _block_mask(blocks).repeat(batch, 1, 1)
        heads = attention(query, key, value, mask[:, None])
        heads = heads.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :length]
        return self.attention.output(heads.transpose(1, 2).flatten(2))

    def read(self, x: Tensor) -> Any:
        """See `Layer.read`: the last r − 1 keys and values."""
        return self.attention.project_key_value(x[:, max(0, x.shape[1] - REACH + 1) :])

    def step(self, token: Tensor, state: Any) -> Tensor:
        """See `Layer.step`."""
        query, new = self.attention.project_all(token)
        key, value = torch.cat([state.key, new.key], dim=2), torch.cat([state.value, new.value], dim=2)
        return self.attention.attend(query, KeyValue(key, value))[0]


class Recurrent(Layer):
    """A GRU in one direction: a position knows the others by the states between."""

    name, complexity, sequential, path = "recurrent", "n·d²", "n", "n"
    counted = "6·n·d²"

    def __init__(self, width: int):
        super().__init__(width)
        self.recurrence = Recurrence("gru", width, width)

    def operations(self, length: int) -> int:
        """See `Layer.operations`: two gates and a proposal, each from input and state."""
        return length * self.step_operations(length)

    def step_operations(self, length: int) -> int:
        """See `Layer.step_operations`: the same, however many came before."""
        return 6 * self.width**2

    def forward(self, x: Tensor) -> Tensor:
        """See `Layer.forward`."""
        return self.recurrence(x)[0]

    def read(self, x: Tensor) -> Hidden:
        """See `Layer.read`: one state."""
        return self.recurrence(x)[1]

    def step(self, token: Tensor, state: Hidden) -> Tensor:
        """See `Layer.step`."""
        return self.recurrence(token, state)[0]

    def path_length(self, length: int) -> int:
        """One layer reaches everywhere, but through states in a row: how many of them the signal cannot go around.

        That is, after how many of the steps cutting the state there cuts the last output off from the first input;
        the last step's state is the output itself.
        """
        walks = (lambda x, cut=cut: self._walk(x, cut) for cut in range(length - 1))
        return sum(not _first_reaches_last(walk, length, self) for walk in walks) + 1

    def _walk(self, x: Tensor, cut: int) -> Tensor:
        """Step by step, with no gradient through the state after step `cut`."""
        hidden, outputs = None, []
        for position in range(x.shape[1]):
            output, hidden = self.recurrence(x[:, position : position + 1], hidden)
            outputs.append(output)
            if position == cut:
                hidden = tuple(part.detach() for part in hidden)
        return torch.cat(outputs, dim=1)


class Convolutional(Layer):
    """A gated convolution over a position and the k − 1 before it, as in a decoder."""

    name, complexity, sequential, path = "convolutional", "k·n·d²", "1", "n/k"
    counted = "2·k·n·d²"

    def __init__(self, width: int):
        super().__init__(width)
        self.convolution = GatedConvolution(width, KERNEL)

    def operations(self, length: int) -> int:
        """See `Layer.operations`: twice the width, as one half gates the other."""
        return length * self.step_operations(length)

    def step_operations(self, length: int) -> int:
        """See `Layer.step_operations`: the same, however many came before."""
        return 2 * KERNEL * self.width**2

    def forward(self, x: Tensor) -> Tensor:
        """See `Layer.forward`."""
        return self.convolution(F.pad(x, (0, 0, KERNEL - 1, 0)))

    def read(self, x: Tensor) -> Tensor:
        """See `Layer.read`: the last k − 1 inputs, zeros before the first."""
        return F.pad(x, (0, 0, KERNEL - 1, 0))[:, x.shape[1] :]

    def step(self, token: Tensor, state: Tensor) -> Tensor:
        """See `Layer.step`."""
        return self.convolution(torch.cat([state, token], dim=1))


LAYERS: tuple[type[Layer], ...] = (SelfAttention, Recurrent, Convolutional, RestrictedAttention)
"""In the table's order."""


def longest_chain(layer: Layer, length: int) -> int:
    """Operations in a row of which each needs the result of the one before it, as autograd has recorded them.

    This is what no number of processors shortens. Reshaping counts as an operation here.
    """
    output = layer(torch.zeros(1, length, layer.width, dtype=next(layer.parameters()).dtype))
    assert output.grad_fn is not None
    depth: dict[Any, int] = {}
    for node in _inputs_first(output.grad_fn):
        depth[node] = 1 + max((depth[before] for before in _inputs(node)), default=0)
    return depth[output.grad_fn]


def _inputs_first(last: Any) -> Iterator[Any]:
    """The operations that led to `last`, each after those that it needs."""
    waiting, seen = [(last, False)], set()
    while waiting:
        node, inputs_are_done = waiting.pop()
        if inputs_are_done:
            yield node
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting.extend((before, False) for before in _inputs(node))


def _inputs(node: Any) -> list[Any]:
    """The operations whose results it takes; where a weight comes in, there is none."""
    return [before for before, _ in node.next_functions if before is not None and "AccumulateGrad" not in before.name()]


def _block_mask(blocks: int) -> Tensor:
    """(block, query, key): a key is at most r − 1 before its query; before the first block there is nothing."""
    query, key = torch.arange(REACH)[:, None] + REACH, torch.arange(2 * REACH)
    near = (key <= query) & (query - key < REACH)
    exists = torch.arange(blocks)[:, None] * REACH + key >= REACH
    return near & exists[:, None, :]


def _first_reaches_last(function: Callable[[Tensor], Tensor], length: int, like: Layer) -> bool:
    """Whether the gradient of the last output with respect to the first input is other than zero."""
    x = torch.randn(1, length, like.width, dtype=next(like.parameters()).dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x)[:, -1].sum(), x)
    return bool(gradient[:, 0].count_nonzero())
