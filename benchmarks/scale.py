"""How cost grows with the corpus: time and memory from raw text to training, for 10,000 to 10,000,000 pairs.

    python benchmarks/scale.py [--pairs 10000 100000 1000000 10000000] [--directory build/scale]

A corpus of short made-up sentences is written, a tokenizer is learnt from it, and it is tokenised to disk, opened,
shared out among batches, and trained on by a tiny Transformer that is then resumed. Each stage is a process of its own.

Of each process are given the wall-clock and the processor time, imports included, and two peaks of memory: the resident
set, as the kernel keeps it, and the anonymous part of it, looked up every 10 ms. The difference is files mapped into
memory (the encoded corpus, libraries), which the kernel takes back when memory is short. Writes
benchmarks/results/scale.json.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
STEPS = 20  # of each of the two trainings
BATCHES = 2000
STAGES = [
    ("generate", None),
    ("learn", 0),
    ("encode", 0),
    ("read", BATCHES),
    ("train", STEPS),
    ("resume", 2 * STEPS),
]
PROCESSORS = (1, 2)


def main() -> None:
    """Measure every size, each in a directory of its own that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10**n for n in range(4, 8)])
    parser.add_argument("--directory", type=Path, default=Path("build/scale"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of training")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scale.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(options.threads), "sizes": {}}
    for pairs in options.pairs:
        directory = options.directory.resolve() / str(pairs)
        shutil.rmtree(directory, ignore_errors=True)
        try:
            result["sizes"][str(pairs)] = measure(directory, pairs, options.threads)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(result["sizes"])))


def environment(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    facts = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in facts if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "processors_allowed": len(os.sched_getaffinity(0)),
        "threads_of_training": threads,
        "load_at_the_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def measure(directory: Path, pairs: int, threads: int) -> dict[str, Any]:
    """All stages of one size, in order."""
    stages = {}
    for name, number in STAGES:
        what = "train" if name == "resume" else name
        stages[name] = in_a_process(what, directory, pairs if number is None else number, threads)
        print(f"{pairs:>10,}  {name:<9} {json.dumps(stages[name])}", file=sys.stderr, flush=True)
    allowed = [count for count in PROCESSORS if count <= len(os.sched_getaffinity(0))]
    stages["tokenise"] = [in_a_process("tokenise", directory, count, threads) for count in allowed]
    return stages


def in_a_process(stage: str, directory: Path, number: int, threads: int) -> dict[str, Any]:
    """What the stage says of itself, with the time and the memory that its process took.

    Raises:
        SystemExit: the stage failed; it has said why.
    """
    command = [sys.executable, str(HERE / "scale_stages.py"), stage, str(directory), str(number)]
    began, busy = time.time(), processor_seconds()
    settings = {"OMP_NUM_THREADS": str(threads), "SCALE_BEGAN": str(began)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | settings) as process:
        anonymous = resident = 0
        while process.poll() is None:
            now = memory(process.pid)
            anonymous, resident = max(anonymous, now.get("RssAnon", 0)), max(resident, now.get("VmHWM", 0))
            time.sleep(0.01)
        seconds = time.time() - began
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"scale: the stage {stage!r} failed in {directory}")
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds() - busy,
        "peak_anonymous_mib": anonymous / 1024,
        "peak_resident_mib": resident / 1024,
        **json.loads(said.splitlines()[-1]),
    }


def processor_seconds() -> float:
    """What all processes measured so far have computed."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def memory(process: int) -> dict[str, int]:
    """Memory of a running process, in KiB, by the kernel's names; empty once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}


ROWS = {
    "learn the tokenizer, s": ("learn", "seconds_learning"),
    "… anonymous memory, MiB": ("learn", "peak_anonymous_mib"),
    "tokenise, s": ("encode", "seconds_encoding"),
    "… lines/s": ("encode", "lines_per_second"),
    "… lines/s of processor time": ("encode", "lines_per_cpu_second"),
    "… anonymous memory, MiB ": ("encode", "peak_anonymous_mib"),
    "open, ms": ("read", "seconds_opening"),
    "plan an epoch, s": ("read", "seconds_planning"),
    "make a batch, ms": ("read", "milliseconds_a_batch"),
    "start of training to its first batch, s": ("train", "seconds_to_the_first_batch"),
    "… of processor time, s": ("train", "processor_seconds_to_the_first_batch"),
    "… resumed, s": ("resume", "seconds_to_the_first_batch"),
    "training: share of waiting for data, %": ("train", "share_of_waiting_for_data"),
    "… anonymous memory, MiB  ": ("train", "peak_anonymous_mib"),
    "… resident memory, MiB": ("train", "peak_resident_mib"),
}
FACTORS = {"seconds_opening": 1e3, "share_of_waiting_for_data": 100}


def table(sizes: dict[str, Any]) -> list[str]:
    """The figures as Markdown, a column for each size."""
    lines = [f"| pairs | {' | '.join(f'{int(size):,}' for size in sizes)} |", f"|---|{'---:|' * len(sizes)}"]
    for title, (stage, key) in ROWS.items():
        values = [FACTORS.get(key, 1) * stages[stage][key] for stages in sizes.values()]
        cells = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
        lines.append(f"| {title.rstrip()} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
