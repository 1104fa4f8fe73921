"""Training as a user starts it: the loop, and at its end the run's report.

The report is written after the last step: a training's budget does not hold it, a failure of it does not touch the run.
Variants of a comparison have the comparison's report in common; `qkv report` writes one of their own.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qkv.config.schema import Config
from qkv.progress import tell
from qkv.run.directory import Run
from qkv.training import trainer


def train(
    recipe: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = (), *, progress: bool = True
) -> Run:
    """Train a model as the recipe says, write its report, and return the run; see `qkv.training.trainer.train`."""
    return _reported(trainer.train(recipe, overrides, progress=progress), progress=progress)


def resume(run: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> Run:
    """Go on with a run from its newest checkpoint, and write its report; see `qkv.training.trainer.resume`."""
    return _reported(trainer.resume(run, overrides, progress=progress), progress=progress)


def _reported(run: Run, *, progress: bool) -> Run:
    began = time.monotonic()
    try:
        from qkv.experiment.report import write_report

        path = write_report(run)
    except Exception as error:  # a page that cannot be drawn is no reason to lose a training
        reason = " ".join(str(error).split()) or type(error).__name__
        tell(f"qkv: training is complete, but its report could not be written: {reason}")
    else:
        if progress:
            tell(f"report: {path}, written in {time.monotonic() - began:.1f} s")
    return run
