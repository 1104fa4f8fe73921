"""Where to compute, and in which precision."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from qkv.errors import UserError

Precision = Literal["float32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """The named device, by "auto" the first CUDA device or else the CPU; `UserError` if it does not exist here."""
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
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def undisturbed(threads: int | None = None) -> Iterator[None]:
    """In the block torch computes with `threads`, if given; after it, threads and chance are as they were before."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(before)


def limit_this_thread(threads: int) -> None:
    """Let what the calling thread computes take so many CPU threads, and nothing else in the process.

    `torch.set_num_threads` writes down its number for the whole process as well, and a thread that first touches torch
    while it stands there keeps it for good. So OpenMP and MKL are told themselves: both keep a number for each thread.
    """
    torch.get_num_threads()  # a thread's first use of torch sets them to the process's number: not after this
    for tell in _of_a_thread():
        tell(threads)


@cache
def _of_a_thread() -> list[Callable[[int], Any]]:
    """What tells OpenMP and, where torch has it, MKL; torch's own way where a system hides them."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        names = ["omp_set_num_threads", *["MKL_Set_Num_Threads_Local"] * torch.backends.mkl.is_available()]
        return [getattr(library, name) for name in names]
    except (OSError, AttributeError):
        return [torch.set_num_threads]


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system after every step; elsewhere, do nothing.

    A training step on a CPU frees and asks for the same large tensors over and over; without this, the system maps
    and clears their pages anew each time. The whole process is changed, for good: this is for commands of our own.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**26)  # as much as a heap of another thread holds, or an empty one is unmapped
    except (OSError, AttributeError):
        pass
