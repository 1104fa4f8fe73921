"""How much of its speed does a training keep while another process has a core to itself?

    python benchmarks/busy.py RECIPE.yaml [key=value …]

Trainings of some steps take turns, undisturbed and beside a process that computes without end; figures are medians of
target tokens a second, as the run's own records tell them. On two cores a fair share is a half.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Measure in turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"quiet": [], "busy": []}
    for _ in range(options.rounds):
        for state, found in rates.items():
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if state == "busy" else None
            try:
                found.append(_rate(options))
            finally:
                if other is not None:
                    other.kill()
                    other.wait()
            print(f"{state:6} {found[-1]:10,.0f} target tokens/s", flush=True)
    quiet, busy = map(statistics.median, rates.values())
    print(json.dumps({"quiet": quiet, "busy": busy, "kept": busy / quiet}))


def _rate(options: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        said = [f"run={run}", f"training.steps={options.steps}", "training.report_every=10", "training.budget=null"]
        said += ["training.epochs=null", "data.validation=null", "validation.metric=loss", "validation.every=1000000"]
        command = [sys.executable, "-m", "qkv", "train", options.recipe, *options.overrides, *said, "--quiet"]
        subprocess.run(command, check=True)
        lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
        return statistics.median(line["tokens_per_second"] for line in lines if line["event"] == "train")


if __name__ == "__main__":
    main()
