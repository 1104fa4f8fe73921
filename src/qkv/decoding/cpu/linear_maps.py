"""A model with other linear maps in place of its own: the same results, or nearly, from matrices made for decoding."""

import copy

from torch import nn

from qkv.decoding.cpu.split_attention import MakeLinear, SplitAttention
from qkv.decoding.cpu.straight import StraightDecoderLayer
from qkv.nn.attention import MultiHeadAttention
from qkv.nn.layers import DecoderLayer
from qkv.nn.seq2seq import Seq2Seq


def with_linear_maps(model: Seq2Seq, make: MakeLinear) -> Seq2Seq:
    """A copy of a model in which `make` has made every linear map, from its weight and bias.

    All else is shared with the model, which stays as it is. The copy is for evaluation.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    changed = copy.deepcopy(model, shared)
    _replace(changed, make)
    return changed.eval()


def _replace(module: nn.Module, make: MakeLinear) -> None:
    for name, child in module.named_children():
        if isinstance(child, MultiHeadAttention):
            setattr(module, name, SplitAttention(child, make))
        elif type(child) is nn.Linear:
            setattr(module, name, make(child.weight, child.bias))
        else:
            _replace(child, make)
            if isinstance(child, DecoderLayer):
                setattr(module, name, StraightDecoderLayer(child))
