"""Tests of qkv.decoding.cpu: float64 and a fixed seed, unless one says otherwise."""

import pytest


@pytest.fixture(autouse=True)
def in_double_precision(double_precision) -> None:
    pass
