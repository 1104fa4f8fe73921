"""Resumed = uninterrupted, bit for bit, however and wherever training was interrupted.

All that has a state is on: dropout, accumulation, an average of the weights, subword sampling, a schedule that looks at
how much of the run is over, averaging and pruning of checkpoints, validation with a metric.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from qkv.errors import UserError
from qkv.run import checkpoint as checkpoint_module
from qkv.run.checkpoint import read_state
from qkv.run.directory import Run
from qkv.training import loss as loss_module
from qkv.training import trainer as trainer_module
from qkv.training.trainer import resume, train

pytestmark = pytest.mark.usefixtures("without_shape_checks")

EVERYTHING: dict[str, dict[str, Any]] = {
    "tokenizer": {"vocab_size": 40, "sampling": 0.2},
    "training": {"accumulate": 2, "ema": 0.9, "average_last": 3, "cooldown": 0.3, "report_every": 3},
    "validation": {"every": 8, "metric": "cer"},
    "checkpoints": {"every": 5, "keep": 2},
}
# The runs to be interrupted: what changes in the training and validation sections.
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "short": {"training": {"steps": 24}},
    "long": {"training": {"steps": 90}, "validation": {"every": 20}},
    "epochs": {"training": {"steps": None, "epochs": 5, "schedule": "cosine"}, "validation": {"every": None}},
    "patience": {"training": {"steps": 24, "learning_rate": 1e-12}, "validation": {"every": 4, "patience": 2}},
}


@pytest.fixture(scope="session")
def settings(make_recipe) -> Callable[[str, Path], dict[str, Any]]:
    def make(name: str, run: Path) -> dict[str, Any]:
        changed = {section: EVERYTHING[section] | RUNS[name].get(section, {}) for section in EVERYTHING}
        return make_recipe(run, **changed)

    return make


@pytest.fixture(scope="session")
def uninterrupted(settings, outcome, tmp_path_factory) -> Callable[[str], dict[str, Any]]:
    """What a run comes to when nothing happens."""
    known: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in known:
            run = tmp_path_factory.mktemp("uninterrupted") / name
            known[name] = outcome(train(settings(name, run), progress=False))
        return known[name]

    return of


# Killed from within, at chosen points of the code


def train_until_killed(settings: dict[str, Any], place: "Place") -> None:
    """Train in a child process, which gets a SIGKILL there."""
    child = os.fork()
    if child == 0:
        try:
            place.kill_there()
            train(settings, progress=False)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@dataclass
class Place:
    """A call of a function: the how manieth, and what half of its work has been done by then."""

    module: ModuleType
    name: str
    call: int
    half: Callable[..., object] | None = None

    def kill_there(self) -> None:
        function, numbers = getattr(self.module, self.name), itertools.count(1)

        def dying(*args: Any, **kwargs: Any) -> Any:
            if next(numbers) == self.call:
                if self.half is not None:
                    self.half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        setattr(self.module, self.name, dying)

    def __str__(self) -> str:
        return f"{self.name}-{self.call}"


def write_half(tensors: object, path: Path) -> None:
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{half")


def remove_half(path: Path, *_: object) -> None:
    next(file for file in path.iterdir() if file.is_file()).unlink()


PLACES = [
    # in a step: the first one, and some in mid-epoch and in mid-accumulation
    *(("short", Place(loss_module, "batch_loss", call)) for call in (1, 10, 40)),
    ("epochs", Place(loss_module, "batch_loss", 21)),
    # before something that was written takes its name: tokenizers, encoded pairs, checkpoints, links to the best one
    *(("short", Place(os, "replace", call)) for call in (3, 4, 5, 9, 10, 12, 13, 17, 18)),
    # in the middle of a checkpoint's weights, and of the rest of it
    *(("short", Place(checkpoint_module, "save_file", call, write_half)) for call in (1, 8)),
    # in the middle of removing an old checkpoint, or the encoded pairs of an old epoch
    *(("short", Place(shutil, "rmtree", call, remove_half)) for call in (2, 5)),
    # after the last step
    ("short", Place(trainer_module, "average_run", 1)),
    ("patience", Place(trainer_module, "average_run", 1)),
]


@pytest.mark.parametrize(("name", "place"), PLACES, ids=str)
def test_killed_here(settings, uninterrupted, outcome, tmp_path, name, place):
    train_until_killed(settings(name, tmp_path / "run"), place)
    assert outcome(resume(tmp_path / "run", progress=False)) == uninterrupted(name)


def test_from_any_checkpoint(settings, uninterrupted, outcome, tmp_path):
    """Not only from the newest: what came after the chosen one is removed by hand."""
    everything = settings("short", tmp_path / "all") | {"checkpoints": {"every": 5, "keep": 100}}
    expected = outcome(train(everything, progress=False))
    for path in Run(tmp_path / "all").checkpoints()[:-1:2]:
        copy = tmp_path / path.name
        shutil.copytree(tmp_path / "all", copy, symlinks=True)
        for newer in Run(copy).checkpoints():
            if newer.name > path.name:
                shutil.rmtree(newer)
        assert outcome(resume(copy, progress=False)) == expected, path.name


# Killed from without, whenever it comes


def start_qkv(*arguments: str | Path) -> subprocess.Popen[str]:
    """The `qkv` command in a process of its own."""
    command = [sys.executable, "-c", "import sys; from qkv.cli.main import main; sys.exit(main())"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def wait_for_step(run: Run, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not any(record["step"] >= step for record in run.metrics()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, f"no step {step} after two minutes"
        time.sleep(0.001)


def newest_step(run: Run) -> int:
    return read_state(run.checkpoints()[-1]).step if run.checkpoints() else 0


@pytest.fixture
def recipe_file(settings, tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings("long", tmp_path / "run")))
    return path


def test_killed_at_random_moments(uninterrupted, outcome, recipe_file, tmp_path):
    chance, run = random.Random(20170612), Run(tmp_path / "run")
    process = start_qkv("train", recipe_file, "--quiet")
    for _ in range(2):
        wait_for_step(run, newest_step(run) + chance.randint(3, 20), process)
        time.sleep(chance.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process = start_qkv("train", "--resume", run.path, "--quiet")
    assert process.wait() == 0
    assert outcome(run) == uninterrupted("long")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(uninterrupted, outcome, recipe_file, tmp_path, number):
    """The step is finished and saved; the extra checkpoint does not show in the end, not even in the average."""
    run = Run(tmp_path / "run")
    process = start_qkv("train", recipe_file)
    wait_for_step(run, 9, process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    step = newest_step(run)
    assert 9 <= step < 90
    assert f"stopped at step {step}; go on with `qkv train --resume {run.path}`" in said
    assert "Traceback" not in said
    assert outcome(resume(run.path, progress=False)) == uninterrupted("long")


# What else may happen


def test_resuming_what_is_over_changes_nothing(settings, outcome, tmp_path):
    """Apart from trying the average once more, at which the same comes out."""
    for name in ("short", "patience"):
        run = train(settings(name, tmp_path / name), progress=False)
        before = outcome(run)
        again = outcome(resume(run.path, progress=False))
        assert again | {"metrics": again["metrics"][:-1]} == before
        assert again["metrics"][-1] == before["metrics"][-1]


def test_a_run_may_go_on_beyond_its_first_end(recipe):
    run = train(recipe(training={"steps": 4}), progress=False)
    resume(run.path, ["training.steps=9"], progress=False)
    assert newest_step(run) == 9
    assert run.config.training.steps == 9


def test_a_run_that_was_moved_or_has_an_odd_name(recipe, tmp_path):
    run = train(recipe("first", training={"steps": 2}), progress=False)
    odd = tmp_path / "2024 #1: yes"
    run.path.rename(odd)
    assert resume(odd, ["training.steps=3"], progress=False).path == odd
    assert newest_step(Run(odd)) == 3
    assert not run.path.exists()


def test_a_recipe_may_stand_for_its_run(recipe, tmp_path):
    settings = recipe(training={"steps": 2})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    train(settings, progress=False)
    assert newest_step(resume(tmp_path / "recipe.yaml", ["training.steps=3"], progress=False)) == 3


def test_an_average_may_be_switched_on_and_off_in_between(recipe):
    run = train(recipe(training={"steps": 2}), progress=False)
    resume(run.path, ["training.steps=4", "training.ema=0.9"], progress=False)
    resume(run.path, ["training.steps=6", "training.ema=0"], progress=False)
    assert newest_step(run) == 6


def test_what_the_next_sitting_does_not_repeat_is_taken_back(recipe):
    """Reports that are newer than the newest checkpoint would stand there twice; half a line would spoil the rest."""
    run = train(recipe(training={"steps": 4}), progress=False)
    with run.metrics_path.open("a", encoding="utf-8") as file:
        file.write('{"event": "train", "step": 5, "loss": 0.0}\n{"event": "tra')
    resume(run.path, ["training.steps=6"], progress=False)
    steps = [record["step"] for record in run.metrics() if record["event"] == "train"]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such run directory"),
        (lambda path: path.mkdir(), "not a run directory"),
    ],
)
def test_nothing_to_resume(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        resume(tmp_path / "run", progress=False)


def test_a_damaged_checkpoint_is_said_to_be_so(recipe):
    run = train(recipe(training={"steps": 2}), progress=False)
    path = run.checkpoints()[-1] / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"optimizer\.safetensors: cannot be read"):
        resume(run.path, progress=False)
    path.unlink()
    with pytest.raises(UserError, match=r"optimizer\.safetensors: cannot be read"):
        resume(run.path, progress=False)
