"""Whole files or none, strict JSON, and left-overs that nobody writes any more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qkv.errors import UserError
from qkv.files import new_directory, remove_leftovers, to_json, write_bytes, write_json, write_lines, write_text


def test_json_is_strict(tmp_path):
    """NaN and Infinity are no JSON: other readers refuse them, or the whole file."""
    content = {"loss": float("nan"), "norms": [float("inf"), 1.5, (float("-inf"),)], "text": "größer", "none": None}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    expected = {"loss": None, "norms": [None, 1.5, [None]], "text": "größer", "none": None}
    assert json.loads(text, parse_constant=refuse) == expected
    assert "größer" in text
    assert text.endswith("}\n")
    assert "\n" not in to_json(content)


@pytest.mark.parametrize(
    ("write", "content"),
    [(write_text, "new"), (write_bytes, b"new"), (write_lines, ["new"]), (write_json, "new")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, write, content):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qkv.files.os.replace", full)
    with pytest.raises(UserError, match=r"file: cannot be written \(No space left on device\)"):
        write(path, content)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
    write(path, content)
    assert "new" in path.read_text()


def test_left_overs_go_but_not_what_is_being_written(tmp_path):
    """Nor what is not ours."""
    for name in (".step-1.abc", ".step-1.removed", ".ipynb_checkpoints", "step-1", ".other.abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / ".step-1.file").write_text("")
    with new_directory(tmp_path / "step-2") as new:
        (new / "file").write_text("half")
        remove_leftovers(tmp_path, "step-*")
        assert (new / "file").read_text() == "half"
    kept = {".ipynb_checkpoints", ".other.abc", ".step-1.file", "step-1", "step-2"}
    assert {path.name for path in tmp_path.iterdir()} == kept


KILLED = """
import os, signal, sys
from pathlib import Path
from qkv.files import new_directory
with new_directory(Path(sys.argv[1]) / "step-3") as new:
    print(new, flush=True)
    {then}
"""


def test_whose_writer_was_killed_is_left_over(tmp_path):
    code = KILLED.format(then="os.kill(os.getpid(), signal.SIGKILL)")
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False)
    left = Path(said.stdout.strip())
    assert left.is_dir()
    remove_leftovers(tmp_path, "step-*")
    assert not left.exists()


def test_another_process_that_still_writes_is_not_disturbed(tmp_path):
    code = KILLED.format(then="sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        new = Path(other.stdout.readline().strip())
        remove_leftovers(tmp_path, "step-*")
        assert new.is_dir()
    assert (tmp_path / "step-3").is_dir()
