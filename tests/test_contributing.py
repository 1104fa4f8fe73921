"""CONTRIBUTING keeps its word: the package that it shows is installed as it stands there, and each example is used.

Nothing of it is written here: the files are the page's Python and TOML, and what is run are the page's commands.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAIRS = [("ab", "ba"), ("abc", "cba"), ("aa", "aa"), ("cab", "bac")]
RECIPE = """\
run: runs/mine
data: {train: pairs.tsv, validation: pairs.tsv, test: pairs.tsv}
device: cpu
threads: 1
tokenizer: {kind: char}
model: {d_model: 16}
training: {steps: 2}
"""


def files() -> dict[str, str]:
    """The files that the page shows: blocks that begin with a comment that is a path."""
    blocks = re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def commands(heading: str) -> list[list[str]]:
    """The words of each command of a section."""
    section = re.search(rf"^### {heading}$(.*?)(?=^### |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory with the page's package installed in `site`, a recipe, its pairs in two formats, and a run."""
    directory = tmp_path_factory.mktemp("contributing")
    for name, content in files().items():
        path = directory / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    offline = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", directory / "site", directory / "package"]
    subprocess.run(pip, check=True)
    (directory / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (directory / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS), encoding="utf-8")
    (directory / "pairs.csv").write_text("source,target\n" + "".join(f"{a},{b}\n" for a, b in PAIRS), encoding="utf-8")
    (directory / "input.txt").write_text("ab\nabc\n", encoding="utf-8")
    run(directory, ["qkv", "train", "recipe.yaml", "--quiet", "model.encoder_layers=1", "model.decoder_layers=1"])
    return directory


@pytest.fixture
def package(work, monkeypatch):
    """Import a module of the page's package."""
    monkeypatch.syspath_prepend(str(work / "site"))
    return lambda name: importlib.import_module(f"my_qkv.{name}")


def run(directory, words) -> str:
    """Run one of the page's commands, qkv being the one that is tested; what it prints."""
    source = None
    if "<" in words:
        words, source = words[: words.index("<")], directory / words[-1]
    assert words[0] == "qkv"
    path = os.pathsep.join([str(directory / "site"), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-m", "qkv", *words[1:]],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL if source is None else source.open(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_is_whole():
    shown = files()
    entries = re.findall(r'^\w+ = "my_qkv\.(\w+)(?::\w+)?"$', shown["pyproject.toml"], re.MULTILINE)
    assert {f"my_qkv/{module}.py" for module in entries} == shown.keys() - {"pyproject.toml"}
    groups = re.findall(r'entry-points\."qkv\.(\w+)"', shown["pyproject.toml"])
    assert groups == ["metrics", "formats", "architectures", "exports", "verbs"]


def test_a_metric_is_computed(work, package):
    (command,) = commands("A metric")
    assert re.search(r"^copied \d+\.\d\d$", run(work, command), re.MULTILINE)
    metric = package("copied").COPIED
    assert metric(["a", "b", "c d", "e"], [["x"]] * 4, ["a", "x", "c d", "E"]).value == 50


def test_a_file_format_is_read(work):
    (command,) = commands("A file format")
    run(work, [*command, "--quiet"])
    (work / "broken.csv").write_text("source,other\na,b\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"broken\.csv:2: no source or target; its columns are source, other"):
        run(work, [*command, "data.train=broken.csv", "run=runs/broken"])


def test_an_architecture_trains_and_translates(work):
    train, translate = commands("An architecture")
    run(work, [*train, "--quiet"])
    assert "bag" in run(work, ["qkv", "info", "runs/bag"])
    assert len(run(work, translate).splitlines()) == 2


def test_the_architecture_keeps_the_contract(package):
    """Step by step = at once, padded = unpadded, beams of a sentence = the sentence."""
    bag = package("bag")
    model = bag.Bag(bag.BagConfig(vocab_size=11, d_model=8))
    padded, target = torch.tensor([[3, 1, 4], [9, 2, 0]]), torch.tensor([[5, 6, 7], [1, 8, 2]])
    whole = model(padded, target, padded != 0)
    torch.testing.assert_close(whole[1:], model(padded[1:, :2], target[1:]))
    memory = model.encode(padded, padded != 0)
    cache = model.start(memory)
    rows = torch.tensor([0, 0, 1, 1])
    first = model.decode(target[:, :1], memory, cache)
    cache.reorder(rows)
    rest = [model.decode(target[rows, step, None], memory, cache) for step in (1, 2)]
    torch.testing.assert_close(model.project(torch.cat([first[rows], *rest], dim=1)), whole[rows])
    assert cache.length == 3


def test_an_export_is_written_and_checked(work):
    (command,) = commands("An export")
    assert "Checked against the model itself" in run(work, command)
    (path,) = work.glob("runs/mine/exports/*/weights.npz")
    with np.load(path) as arrays:
        assert {array.dtype for array in arrays.values()} == {np.dtype("float16")}


def test_a_verb_does_what_it_says(work):
    (command,) = commands("A verb")
    assert {"a", "b", "c"} <= set(run(work, command).splitlines())
    assert "print the tokens that a run knows" in run(work, ["qkv", "--help"])


def test_the_map_shows_the_floors():
    rows = re.findall(r"^\| (\d) \| ((?:`\w+` ?)+) \|", PAGE, re.MULTILINE)
    shown = {part: int(floor) for floor, parts in rows for part in re.findall(r"`(\w+)`", parts)}
    assert shown == {part: floor for part, floor in FLOORS.items() if part}
    assert [floor for floor, _ in rows] == sorted((floor for floor, _ in rows), reverse=True)


@pytest.mark.parametrize("name", re.findall(r"^make (\w+)", PAGE, re.MULTILINE))
def test_there_is_such_a_target(name):
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
