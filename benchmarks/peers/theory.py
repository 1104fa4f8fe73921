"""How many operations training needs at least, and how many the machine can do: the share is what a system makes of it.

Counted for real tokens only: padding is work that nobody asked for.
"""

import time
from typing import Any

import numpy as np
import torch
from worker import Command, serve


def training_flops_per_target_token(model: dict[str, Any], source: np.ndarray, target: np.ndarray) -> float:
    """Floating-point operations of forward and backward, per target token, on average over the pairs.

    A product of matrices counts 2 operations per multiplied pair of numbers, and its backward pass twice as many as
    its forward pass; so 6 × parameters for each token that passes through them, and the products of attention. What is
    not a matrix product (softmax, norms, dropout, the optimizer) is not counted.

    Args:
        model: d_model, d_ff, layers and vocab_size.
        source: tokens of each source.
        target: tokens of each target.
    """
    width, d_ff, layers = model["d_model"], model["d_ff"], model["layers"]
    source, target = source.astype(float), target.astype(float)
    four = 4 * width * width  # query, key, value and output
    on_source = layers * (four + 2 * width * d_ff) + layers * (four / 2)  # and the memory's keys and values
    on_target = layers * (four + four / 2 + 2 * width * d_ff) + width * model["vocab_size"]
    seen = source * source + target * (target + 1) / 2 + target * source  # a target position sees those before it
    multiplied = on_source * source + on_target * target + layers * 2 * width * seen
    return float(6 * multiplied.sum() / target.sum())


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`: measures the rate of a large float32 matrix product."""
    torch.set_num_threads(options["threads"])
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)

    def multiply(seconds: float) -> dict[str, Any]:
        best, began = 0.0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
        return {"flops_per_second": best}

    return {"multiply": multiply}


if __name__ == "__main__":
    serve(build)
