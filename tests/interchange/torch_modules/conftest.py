"""What a pair of modules, ours and torch's, is tried with. All of it is in double precision."""

import pytest
import torch
from same_function import SOURCE
from torch import Tensor

from qkv.nn import padding_mask


@pytest.fixture(autouse=True)
def in_double_precision(double_precision) -> None:
    pass


@pytest.fixture(params=["torch", "qkv"])
def origin(request) -> str:
    """Which of the two modules is converted into the other."""
    return request.param


@pytest.fixture(params=[("relu", True), ("gelu", False)], ids=["relu-bias", "gelu-no-bias"])
def activation_and_bias(request) -> tuple[str, bool]:
    return request.param


@pytest.fixture(params=["post", "pre"])
def norm_position(request) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["padded", "unpadded"])
def source_mask(request) -> Tensor | None:
    """True = a real token, or None."""
    return padding_mask(torch.tensor([SOURCE, 3])) if request.param else None


@pytest.fixture(params=[True, False], ids=["causal", "free"])
def causal(request) -> bool:
    return request.param
