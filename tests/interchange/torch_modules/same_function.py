"""The same weights, the same function: ours beside torch.nn's own modules, in outputs and in every gradient."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qkv.interchange.torch_modules import from_torch, to_torch
from qkv.nn import TransformerConfig

D_MODEL, HEADS, D_FF, SOURCE, TARGET = 12, 3, 20, 5, 4
CLOSE = {"atol": 1e-10, "rtol": 0}


def randomised(module: nn.Module) -> nn.Module:
    """With biases and norms too away from the zeros and ones that they begin with."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def gradients_as_ours(theirs: nn.Module) -> dict[str, Tensor]:
    """The gradients of a torch module by our names: they are converted as the weights are."""
    holder = copy.deepcopy(theirs)
    for parameter, original in zip(holder.parameters(), theirs.parameters(), strict=True):
        parameter.data = original.grad
    converted = from_torch(holder)
    stacks = (
        dict(zip(("encoder", "decoder"), converted, strict=True)) if isinstance(converted, tuple) else {"": converted}
    )
    return {
        f"{stack}.{name}".lstrip("."): parameter.data
        for stack, module in stacks.items()
        for name, parameter in module.named_parameters()
    }


def assert_same_function(
    ours: nn.Module,
    theirs: nn.Module,
    call_ours: Callable[..., Tensor],
    call_theirs: Callable[..., Tensor],
    inputs: list[Tensor],
) -> None:
    """Equal outputs, and equal gradients of every input and every parameter, in a random direction."""
    own_inputs, their_inputs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    output, their_output = call_ours(*own_inputs), call_theirs(*their_inputs)
    torch.testing.assert_close(output, their_output, **CLOSE)
    direction = torch.randn_like(output)
    output.backward(direction)
    their_output.backward(direction)
    for own, their in zip(own_inputs, their_inputs, strict=True):
        torch.testing.assert_close(own.grad, their.grad, **CLOSE)
    expected, actual = gradients_as_ours(theirs), gradients(ours)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def converted(origin: str, ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]) -> tuple:
    """Our module and torch's, one of them made from the other."""
    if origin == "torch":
        module = randomised(theirs())
        return from_torch(module), module
    module = randomised(ours())
    return module, to_torch(module)


def as_keys(mask: Tensor | None) -> Tensor | None:
    """Ours: shared by all queries."""
    return None if mask is None else mask[:, None]


def negated(mask: Tensor | None) -> Tensor | None:
    """Theirs: True = may not attend."""
    return None if mask is None else ~mask


LAYER = {"d_model": D_MODEL, "num_heads": HEADS, "d_ff": D_FF}


def torch_layer_options(activation: str, norm_position: str, bias: bool = True) -> dict:
    return {
        "d_model": D_MODEL,
        "nhead": HEADS,
        "dim_feedforward": D_FF,
        "dropout": 0.0,
        "activation": activation,
        "norm_first": norm_position == "pre",
        "batch_first": True,
        "bias": bias,
    }


def config(**changes) -> TransformerConfig:
    layers = {"encoder_layers": 3, "decoder_layers": 2}
    return TransformerConfig(7, **(LAYER | layers | {"dropout": 0.0} | changes))


def torch_transformer(**changes) -> nn.Transformer:
    options = torch_layer_options("relu", "post") | {"num_encoder_layers": 3, "num_decoder_layers": 2} | changes
    with warnings.catch_warnings():  # pre-norm has no fast path there, says torch
        warnings.simplefilter("ignore", UserWarning)
        return nn.Transformer(**options)
