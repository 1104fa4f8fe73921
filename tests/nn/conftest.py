"""What the tests of qkv.nn share: float64 and a fixed seed everywhere, devices, and models to try properties on."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from qkv.nn import Transformer, TransformerConfig

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
POSITIONS = ["sinusoidal", "learned", "rotary", "none"]
VOCAB_SIZE = 11


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(params=["float32", "float64", "bfloat16"])
def dtype(request) -> torch.dtype:
    return getattr(torch, request.param)


@pytest.fixture
def tolerance(dtype) -> float:
    """How far a result in this precision may be from the exact one, for numbers around 1."""
    return {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]


@pytest.fixture(params=["pre", "post"])
def norm_position(request) -> str:
    return request.param


@pytest.fixture(params=POSITIONS)
def position(request) -> str:
    return request.param


@pytest.fixture(params=[("random", "post"), ("trained", "pre")], ids=["random-post", "trained-pre"])
def model(request, position) -> Transformer:
    """A small Transformer in evaluation mode, as initialised or after some steps of training."""
    weights, norm_position = request.param
    model = small_transformer(position, norm_position)
    if weights == "trained":
        model.load_state_dict(trained_weights(position, norm_position))
    return model.eval()


@pytest.fixture
def plain_model() -> Transformer:
    """One model for what depends on neither positions nor norms."""
    return small_transformer("sinusoidal", "post").eval()


def small_transformer(position: str, norm_position: str) -> Transformer:
    config = TransformerConfig(
        VOCAB_SIZE,
        d_model=16,
        num_heads=4,
        d_ff=32,
        encoder_layers=2,
        decoder_layers=2,
        norm_position=norm_position,
        position=position,
        max_length=64,
    )
    return Transformer(config)


@cache
def trained_weights(position: str, norm_position: str) -> dict[str, Tensor]:
    with torch.inference_mode(False):
        model = small_transformer(position, norm_position)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(6):  # learning to copy
            tokens = torch.randint(1, VOCAB_SIZE, (8, 6))
            logits = model(tokens, tokens.roll(1, dims=1))
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()


@pytest.fixture
def source() -> Tensor:
    """Three sentences of 5, 3 and 4 tokens, padded with zeros on the right."""
    return torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [5, 3, 5, 8, 0]])


@pytest.fixture
def target() -> Tensor:
    """Their three targets, of 4, 6 and 1 tokens."""
    return torch.tensor([[2, 7, 1, 8, 0, 0], [2, 8, 1, 8, 2, 8], [2, 0, 0, 0, 0, 0]])
