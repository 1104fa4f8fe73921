"""What a model computes, written down while it runs: every operation with its module, shapes, parameters and cost.

torch announces each call to a `TorchFunctionMode`; the Python stack at that moment says which module it belongs to. So
the list comes from the pass itself, and holds for any model that keeps the contract of `qkv.nn.seq2seq`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qkv.nn.seq2seq import AttentionRecord, Seq2Seq

Shape = tuple[int, ...]
Site = tuple[str, tuple[int, ...]]

_PRODUCTS = ("linear", "matmul", "bmm", "mm", "scaled_dot_product_attention")
_RECURRENCES = ("lstm", "gru", "rnn_tanh")
_POINTWISE = ("mul", "add", "tanh", "relu", "gelu", "silu", "glu", "sigmoid", "masked_fill", "softmax", "pad", "cat")
_OTHERS = ("embedding", "layer_norm", "batch_norm")
_REARRANGEMENTS = ("unflatten", "flatten", "transpose", "reshape")
_WATCHED = frozenset((*_PRODUCTS, *_RECURRENCES, *_POINTWISE, *_OTHERS, *_REARRANGEMENTS))


@dataclass
class Operation:
    """One line of a model's code that computes something, and what it did each time it ran in a pass.

    Attributes:
        path: the module that it belongs to, as in `named_modules`.
        owner: that module's class.
        function: the Python function that the line stands in.
        name: torch's name of what is computed: linear, matmul, add, …
        before: shape of its first tensor.
        shape: shape of its result.
        bias: whether it added a vector of parameters.
        inner: the size summed over by a product of two activations, or None.
        factor: the number that it multiplied by, or None.
        dimension: the axis that it worked along, counted from the end, or None.
        times: how often it ran.
        parameters: learnt numbers that it used and no operation before it did.
        shared: it used parameters, all of which an operation before it had used.
        multiply_adds: of all its runs.
    """

    path: str
    owner: str
    function: str
    name: str
    before: Shape
    shape: Shape
    bias: bool = False
    inner: int | None = None
    factor: float | None = None
    dimension: int | None = None
    times: int = 0
    parameters: int = 0
    shared: bool = False
    multiply_adds: int = 0


@dataclass
class Trace:
    """A pass.

    Attributes:
        operations: in the order in which they first ran, by where in the code that was.
        unused: parameters that the pass did not touch, by name.
    """

    operations: dict[Site, Operation]
    unused: dict[str, int]


def trace(model: Seq2Seq, source: Tensor, target: Tensor) -> Trace:
    """Run `model` once, attention weights included, and write down what it computes.

    Args:
        model: is not changed; dropout is left out.
        source: token ids, (batch, source).
        target: token ids, (batch, target).
    """
    was_training = model.training
    watcher = _Watcher(model, sys._getframe())
    model.eval()
    try:
        with torch.no_grad(), watcher:
            record = AttentionRecord()
            memory = model.encode(source, None, record)
            model.project(model.decode(target, memory, None, record))
    finally:
        model.train(was_training)
    return watcher.result()


class _Watcher(TorchFunctionMode):
    def __init__(self, model: Seq2Seq, root: FrameType):
        super().__init__()
        self._modules = _Modules(model, root)
        self._parameters = _Parameters(model)
        self._operations: dict[Site, Operation] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _WATCHED:
            self._write_down(name, args, kwargs, result)
        return result

    def result(self) -> Trace:
        return Trace(self._operations, self._parameters.settle())

    def _write_down(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        values = [*_flat(args), *_flat(kwargs.values())]
        tensors = [value for value in values if isinstance(value, Tensor)]
        output = next((value for value in _flat([result]) if isinstance(value, Tensor)), None)
        found = self._modules.here()
        if output is None or found is None or not tensors:
            return
        path, owner, function, lines = found
        learnt = [(tensor, known) for tensor in tensors if (known := self._parameters.of(tensor)) is not None]
        activations = [tensor for tensor in tensors if self._parameters.of(tensor) is None]
        operation = self._operations.setdefault(
            (f"{path} {name}", lines),
            Operation(
                path,
                owner,
                function,
                name,
                before=tuple((activations or tensors)[0].shape),
                shape=tuple(output.shape),
                bias=any(tensor.dim() == 1 for tensor, _ in learnt),
                inner=activations[0].shape[-1] if name in _PRODUCTS and not learnt else None,
                factor=next((float(v) for v in values if isinstance(v, int | float) and name == "mul"), None),
                dimension=_dimension(args, kwargs, output) if name == "cat" else None,
            ),
        )
        operation.parameters += sum(self._parameters.claim(tensor, known, operation) for tensor, known in learnt)
        operation.shared = bool(learnt) and operation.parameters == 0
        operation.times += 1
        operation.multiply_adds += _multiply_adds(name, tensors, learnt, output)


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _dimension(args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> int:
    dimension = int(kwargs.get("dim", args[1] if len(args) > 1 else 0))
    return dimension if dimension < 0 else dimension - output.dim()


def _multiply_adds(name: str, tensors: Sequence[Tensor], learnt: Sequence[tuple[Tensor, str]], output: Tensor) -> int:
    """Of matrix products, which is nearly all that a model does; what runs along with them is not counted."""
    if name in _RECURRENCES:  # every token passes every matrix of every layer and direction
        return output.shape[:-1].numel() * sum(tensor.numel() for tensor, _ in learnt if tensor.dim() == 2)
    if name == "scaled_dot_product_attention":  # scores, then values
        return output.shape[:-1].numel() * tensors[1].shape[-2] * (tensors[0].shape[-1] + output.shape[-1])
    if name in _PRODUCTS:
        return output.numel() * tensors[0].shape[-1]
    return 0


class _Modules:
    """Which module of a model the running code belongs to; the stack is read up to `root`."""

    def __init__(self, model: nn.Module, root: FrameType):
        self._model, self._root = model, root
        self._names = cache(_names)  # for as long as this lives

    def here(self) -> tuple[str, str, str, tuple[int, ...]] | None:
        """Path, class and function of the innermost module at work, and the lines that have led there."""
        chain: list[nn.Module] = []
        lines: list[int] = []
        function = ""
        frame: FrameType | None = sys._getframe(3)
        while frame is not None and frame is not self._root:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module):
                chain.append(owner)
            if not function and not frame.f_code.co_name.startswith("<") and "torch" not in frame.f_globals["__name__"]:
                function = frame.f_code.co_name
            lines.append(frame.f_lineno)
            frame = frame.f_back
        if frame is None or not chain:
            return None
        return self._path(chain[::-1]), type(chain[0]).__name__, function, (*lines, frame.f_lineno)

    def _path(self, chain: Sequence[nn.Module]) -> str:
        """Step by step from the model inwards: a shared module is named by who calls it."""
        paths = {id(self._model): ""}
        current = self._model
        for module in chain:
            if id(module) not in paths:
                inside = self._names(current).get(id(module))
                if inside is None:  # called by a closure of a module further out
                    outer = next(m for m in chain if id(m) in paths and id(module) in self._names(m))
                    current, inside = outer, self._names(outer)[id(module)]
                paths[id(module)] = f"{paths[id(current)]}.{inside}".lstrip(".")
            current = module
        return paths[id(current)]


def _names(module: nn.Module) -> dict[int, str]:
    return {id(inner): name for name, inner in module.named_modules(remove_duplicate=False) if name}


class _Parameters:
    """Which learnt numbers an operation uses, each counted for the operation that uses it first."""

    def __init__(self, model: nn.Module):
        self._all = dict(model.named_parameters())
        self._used: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
        self._first: dict[str, Operation] = {}

    def of(self, tensor: Tensor) -> str | None:
        """The parameter that a tensor is, or is a part of."""
        address = tensor.data_ptr()
        for name, parameter in self._all.items():
            begin = parameter.data_ptr()
            if begin <= address < begin + parameter.numel() * parameter.element_size():
                return name
        return None

    def claim(self, tensor: Tensor, name: str, operation: Operation) -> int:
        """How many of these numbers no operation has used before."""
        parameter = self._all[name]
        used = self._used.setdefault(name, np.zeros(parameter.numel(), dtype=np.bool_))
        self._first.setdefault(name, operation)
        begin = (tensor.data_ptr() - parameter.data_ptr()) // parameter.element_size()
        part = used[begin : begin + tensor.numel()]
        new = int(part.size - part.sum())
        part[:] = True
        return new

    def settle(self) -> dict[str, int]:
        """Rows of a table that this pass left out belong to whoever uses the table; what nobody used is returned."""
        for name, used in self._used.items():
            self._first[name].parameters += int(used.size - used.sum())
        return {name: parameter.numel() for name, parameter in self._all.items() if name not in self._used}
