"""What the scoring scripts share: how a run was made, for the record beside its scores."""

import argparse
import json
from pathlib import Path
from typing import Any

from qkv.run.checkpoint import read_description
from qkv.run.directory import Run

RESULTS = Path(__file__).parent / "results"


def options(description: str | None, data: str) -> argparse.Namespace:
    """The command line of a scoring script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--checkpoint", default=None)
    return parser.parse_args()


def how_it_was_trained(run: Run) -> dict[str, Any]:
    """Time, speed and size of a run, and the command that makes it again."""
    config = run.config
    training = read_description(run.checkpoints()[-1])["training"]
    speeds = sorted(line["tokens_per_second"] for line in run.metrics() if line["event"] == "train")
    command = f"qkv train recipes/{run.path.name}.yaml"
    if config.threads is not None:
        command += f" threads={config.threads}"
    if config.training.budget is not None:
        command += f" budget={config.training.budget:.0f}s"
    return {
        "minutes": round(training["seconds"] / 60, 1),
        "threads": config.threads,
        "target_tokens_per_second": round(speeds[len(speeds) // 2]),
        "target_tokens": training["target_tokens"],
        "epochs": training["epoch"],
        "steps": training["step"],
        "command": command,
    }


def write(run: Run, result: dict[str, Any]) -> None:
    """Print the result and keep it as results/RUN.json."""
    text = json.dumps(result, indent=1)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{run.path.name}.json").write_text(text + "\n", encoding="utf-8")
