"""One process trains a run at a time, and a lock never outlives its process."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from qkv.errors import UserError
from qkv.run.directory import Run
from qkv.run.lock import locked
from qkv.training.trainer import resume, train

HOLD = """
import sys, time
from qkv.run.directory import Run
from qkv.run.lock import locked
with locked(Run(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(recipe) -> Run:
    return train(recipe(training={"steps": 2}), progress=False)


@pytest.fixture
def holder(run):
    """Another process that has the run locked."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_and_told_who_is_first(run, holder):
    with pytest.raises(UserError, match=f"process {holder.pid} on {socket.gethostname()} is training this run"):
        resume(run.path, ["training.steps=4"], progress=False)
    assert run.config.training.steps == 2


def test_a_lock_ends_with_its_process(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert run.lock_path.exists()
    resume(run.path, ["training.steps=4"], progress=False)
    assert not run.lock_path.exists()
    assert run.checkpoints()[-1].name == "step-00000004"


def test_two_threads_are_two_as_well(tmp_path):
    run = Run(tmp_path / "run")
    with locked(run):
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), locked(run):
            pass
        assert run.lock_path.exists()
    assert not run.path.exists(), "nothing came of it"


def test_a_run_that_begins_is_locked_from_the_start(recipe, monkeypatch):
    from qkv.training import trainer

    settings = recipe(training={"steps": 2})
    seen = []
    prepare = trainer.prepare

    def watched(config, *, resume):
        seen.append(Run(config.run).lock_path.exists())
        return prepare(config, resume=resume)

    monkeypatch.setattr(trainer, "prepare", watched)
    train(settings, progress=False)
    assert seen == [True]


def test_a_training_that_is_refused_leaves_no_directory(recipe):
    settings = recipe(tokenizer={"vocab_size": 5})
    with pytest.raises(UserError, match="too small"):
        train(settings, progress=False)
    assert not Run(settings["run"]).path.exists()


def test_a_directory_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"), locked(Run(tmp_path / "file" / "run")):
        pass
