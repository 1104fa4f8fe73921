"""Switch attention heads off and see what the model does without them (Michel et al. 2019; Voita et al. 2019)."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from qkv.errors import UserError
from qkv.nn import convolutional, layers
from qkv.nn.attention import MultiHeadAttention
from qkv.nn.recurrent_attention import Alignment
from qkv.nn.seq2seq import Seq2Seq

Kind = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True)
class Head:
    """An attention head.

    Attributes:
        kind: encoder (source to source), decoder (target to target) or cross (target to source).
        layer: counted from 1.
        head: counted from 1.
    """

    kind: Kind
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.kind} layer {self.layer} head {self.head}"


@contextmanager
def heads_off(model: Seq2Seq, heads: Iterable[Head]) -> Iterator[None]:
    """Within the block, what these heads retrieve is zero; all else is as before, and is so again after it.

    The heads' weights are computed as ever, so that an `AttentionRecord` still shows where they would have looked.

    Raises:
        UserError: if the model has no such head.
    """
    sites = attention_modules(model)
    with ExitStack() as silenced:
        for head in heads:
            modules = sites.get(head.kind, [])
            if not (1 <= head.layer <= len(modules) and 1 <= head.head <= _count(modules[head.layer - 1])):
                counts = [f"{kind} {len(there)} layers of {_count(there[0])}" for kind, there in sites.items()]
                raise UserError(f"this model has no {head}: it has {', '.join(counts) or 'no attention'}")
            silenced.enter_context(_silence(modules[head.layer - 1], head.head - 1))
        yield


def attention_modules(model: Seq2Seq) -> dict[Kind, list[nn.Module]]:
    """Where the model attends, layer by layer; a kind that it lacks is absent."""
    found: dict[Kind, list[nn.Module]] = {"encoder": [], "decoder": [], "cross": []}
    for module in model.modules():
        if isinstance(module, layers.EncoderLayer):
            found["encoder"].append(module.attention)
        elif isinstance(module, layers.DecoderLayer):
            found["decoder"].append(module.attention)
            found["cross"].append(module.cross_attention)
        elif isinstance(module, convolutional.DecoderLayer | Alignment):
            found["cross"].append(module)
    return {kind: modules for kind, modules in found.items() if modules}


def head_counts(model: Seq2Seq) -> dict[Kind, list[int]]:
    """Number of heads in each layer of each kind of attention that the model has."""
    return {kind: [_count(module) for module in modules] for kind, modules in attention_modules(model).items()}


def _count(module: nn.Module) -> int:
    return module.num_heads if isinstance(module, MultiHeadAttention) else 1


def _silence(module: nn.Module, head: int) -> Any:
    """Zero what a head has retrieved, on its way to the map that joins the heads."""
    if isinstance(module, Alignment):
        return module.register_forward_hook(lambda _module, _inputs, output: (output[0] * 0, output[1]))
    if isinstance(module, convolutional.DecoderLayer):
        return module.found.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 0,))
    assert isinstance(module, MultiHeadAttention)
    width = module.d_model // module.num_heads

    def zeroed(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        joined = inputs[0].clone()
        joined[..., head * width : (head + 1) * width] = 0
        return (joined,)

    return module.output.register_forward_pre_hook(zeroed)
