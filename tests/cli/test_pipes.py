"""Real processes and pipes: work goes on without its log, and what was not done is never said to be."""

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkv.cli.main import main
from qkv.run.checkpoint import read_state
from qkv.run.directory import Run

QKV = f"{sys.executable} -c 'import sys; from qkv.cli.main import main; sys.exit(main())'"


def shell(line: str, *places: object) -> "subprocess.CompletedProcess[str]":
    """A line of bash, in which `$1`, `$2`, … are the places; its exit code is that of the first command that failed."""
    code = f'set -o pipefail; qkv() {{ {QKV} "$@"; }}; {line}'
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = ["bash", "-c", code, "bash", *map(str, places)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "line",
    ["qkv train $1 run=$2 2>&1 | head -2", "qkv train $1 run=$2 2>&-"],
)
def test_a_training_goes_on_without_its_log(recipe, tmp_path, line):
    ran = shell(line, recipe, tmp_path / "run")
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout
    run = Run(tmp_path / "run")
    assert [read_state(path).step for path in run.checkpoints()][-1] == 8
    assert run.best_path.exists()
    assert run.report_path.exists(), "the report comes last"
    if "head -2" in line:
        assert ran.stdout.startswith("training: transformer")
        assert ran.stdout.count("\n") == 2


class Closing:
    """Standard error that is closed by its reader after so many writes."""

    def __init__(self, after: int, error: Exception):
        self._left, self._error, self.said = after, error, ""

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._error
        self.said += text
        return len(text)

    def flush(self) -> None:
        if self._left < 0:
            raise self._error

    def isatty(self) -> bool:
        return True

    closed = False
    encoding = "utf-8"

    def fileno(self) -> int:
        return self._fd

    _fd = os.open(os.devnull, os.O_WRONLY)


@given(
    after=st.integers(0, 40),
    error=st.sampled_from([BrokenPipeError(32, "Broken pipe"), OSError(5, "I/O error"), OSError(28, "No space left")]),
)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whenever_standard_error_fails_training_is_complete(recipe, tmp_path_factory, after, error):
    """A terminal with its bar that has gone, a full disk, a pipe without a reader."""
    path = tmp_path_factory.mktemp("closing") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", Closing(after, error))
        assert main(["train", recipe, f"run={path}", "steps=3"]) == 0
    assert read_state(Run(path).checkpoints()[-1]).step == 3


def test_what_was_not_read_was_not_done(run, tmp_path):
    """As other tools have it: 128 + SIGPIPE. Nothing is said, as it is nobody's mistake."""
    lines = tmp_path / "lines.txt"
    lines.write_text("ab\n" * 9000)
    for line in ("qkv translate $1 --input $2 | head -1", "qkv info $1 | true"):
        ran = shell(line, run, lines)
        assert (ran.returncode, ran.stderr) == (141, ""), line


def test_a_complaint_that_nobody_reads_is_one_all_the_same(tmp_path):
    for line in ("qkv info $1 2>&-", "qkv info $1 2>&1 | true"):
        ran = shell(line, tmp_path / "nowhere")
        assert (ran.returncode, ran.stdout) == (2, ""), line
