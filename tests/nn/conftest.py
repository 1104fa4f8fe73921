"""What the tests of qkv.nn share: float64 and a fixed seed everywhere, devices and precisions."""

import pytest
import torch

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(autouse=True)
def in_double_precision(double_precision) -> None:
    pass


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
