"""Where and with what something was measured, and the clock."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch


@dataclass(frozen=True)
class Environment:
    """Where and with what something was measured."""

    qkv: str
    torch: str
    python: str
    hardware: str
    device: str
    cores: int
    threads: int

    def __str__(self) -> str:
        return (
            f"qkv {self.qkv}, torch {self.torch}, Python {self.python} on {self.hardware} "
            f"({self.device}, {counted(self.cores, 'core')}, {counted(self.threads, 'thread')})"
        )

    @classmethod
    def here(cls, device: str) -> "Environment":
        """This machine, with torch's present number of threads."""
        from qkv import __version__

        return cls(
            qkv=__version__,
            torch=torch.__version__,
            python=platform.python_version(),
            hardware=torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
            device=device,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=torch.get_num_threads(),
        )


def counted(number: int, noun: str) -> str:
    """1 thread, 2 threads."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """How long it takes, until the device has done all that was asked of it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _device: None
    wait(device)
    began = time.perf_counter()
    function()
    wait(device)
    return time.perf_counter() - began


def now() -> str:
    """The date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
