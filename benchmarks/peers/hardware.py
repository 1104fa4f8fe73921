"""What the numbers were measured on, and when."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

NO_BF16 = "this processor has no bf16 instructions, and emulated they are many times slower than float32"


def has_bf16() -> bool:
    """Whether matrix products in bf16 are more than emulation here."""
    return bool({"avx512_bf16", "amx_tile"} & set(hardware()["instructions"]))


def hardware() -> dict[str, Any]:
    """Processor, cores, instructions that matter here, memory, and what else was running."""
    text = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").is_file() else ""
    facts = dict(map(str.strip, line.split(":", 1)) for line in text.splitlines() if ":" in line)
    flags = facts.get("flags", "").split()
    wanted = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile")
    return {
        "processor": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "load_average_before_the_end": round(os.getloadavg()[0], 1),
    }


def now() -> str:
    """The date and time, to the minute."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
