"""Where to compute, and in which precision."""

import ctypes
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from qkv.errors import UserError

Precision = Literal["float32", "bf16", "fp16"]


def pick_device(name: str = "auto") -> torch.device:
    """The named device; "auto" takes the first CUDA device if there is one, else the CPU.

    Raises:
        UserError: if the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Matrix products in bf16 or fp16, everything delicate in float32 (Micikevicius et al. 2018)."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system after every step; elsewhere, do nothing.

    A training step on a CPU frees and asks for the same large tensors over and over; without this, the system maps
    and clears their pages anew each time.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**26)  # as much as a heap of another thread holds, or an empty one is unmapped
    except (OSError, AttributeError):
        pass
