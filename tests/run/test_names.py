"""A name that a run cannot have is refused in one line, before anything is made."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.cli.main import main
from qkv.errors import UserError
from qkv.run.directory import check_name
from qkv.training.trainer import train

BAD = {
    "bytes that are no UTF-8": (os.fsdecode(b"caf\xe9"), r"'\\udce9' cannot stand in the name of a run"),
    "NUL": ("a\0b", r"'\\x00' cannot stand"),
    "a line end": ("a\nb", r"'\\n' cannot stand"),
    "an escape": ("a\x1b[1mb", r"'\\x1b' cannot stand"),
    "a line separator": ("a\u2028b", r"'\\u2028' cannot stand"),
    "a long name": ("é" * 128, r"a name of 256 bytes, and 255 is the most here"),
    "a long name further up": (f"{'x' * 256}/run", r"a name of 256 bytes, and 255 is the most here"),
    "a long path": ("/".join(["x" * 200] * 20), r"a name of 4,\d\d\d bytes, and 4,096 is the most here"),
}


@pytest.mark.parametrize("kind", BAD)
def test_it_is_refused_in_one_line(recipe, tmp_path, kind):
    name, message = BAD[kind]
    settings = recipe(f"runs/{name}")
    with pytest.raises(UserError, match=rf"^run=[^\n]*{message}") as error:
        train(settings, progress=False)
    assert len(str(error.value).splitlines()) == 1
    str(error.value).encode("utf-8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train recipe.yaml run={}", "compare recipe.yaml --vary seed=1,2 --output {}"])
def test_from_the_command_line(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("data: {train: x.tsv, validation: x.tsv}\n")
    Path("x.tsv").write_text("a\tb\n")
    assert main(command.format("runs/a\x07").split(" ")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml", "x.tsv"]


@given(name=st.text(st.characters(exclude_characters="/"), max_size=300))
def test_a_name_that_is_allowed_can_be_made_and_written_down(tmp_path_factory, name):
    path = tmp_path_factory.getbasetemp() / "names" / name
    allowed = True
    try:
        check_name(path)
    except UserError:
        allowed = False
    assert allowed or not name.isprintable() or len(name.encode()) > 255
    if allowed:
        path.mkdir(parents=True, exist_ok=True)
        name.encode("utf-8")


# What is left behind


def test_a_failed_start_through_a_link_can_be_mended(recipe, tmp_path):
    """The directory behind the link is the user's and stays; the link, too."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    with pytest.raises(UserError, match="too small"):
        train(recipe(tokenizer={"vocab_size": 5}), progress=False)
    assert (tmp_path / "run").is_symlink()
    assert list((tmp_path / "disk").iterdir()) == []
    train(recipe(training={"steps": 2}), progress=False)
    assert (tmp_path / "disk" / "best").exists()


def test_a_failed_start_leaves_the_users_own_directory(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="too small"):
        train(recipe(tokenizer={"vocab_size": 5}), progress=False)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("changes", [{"tokenizer": {"vocab_size": 5}}, {"data": {"train": "missing.tsv"}}])
def test_a_refused_training_leaves_no_directory_above_it(recipe, tmp_path, changes):
    with pytest.raises(UserError):
        train(recipe("runs/of/mine", **changes), progress=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError):
        train(recipe("runs/of/mine", **changes), progress=False)
    assert list((tmp_path / "runs").iterdir()) == []
