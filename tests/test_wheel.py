"""What pip installs is whole: built from the tree, put into an environment of its own, and used there."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import qkv

ROOT = Path(__file__).parents[1]
RECIPE = """\
run: run
data: {train: pairs.tsv, validation: pairs.tsv}
device: cpu
threads: 1
tokenizer: {kind: char}
model: {d_model: 16, num_heads: 2, d_ff: 32, encoder_layers: 1, decoder_layers: 1}
training: {steps: 2}
"""


def build(source, directory, target):
    """A wheel or sdist, by what builds it everywhere: nothing is fetched."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", directory]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = directory.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run the command that the wheel has installed: in an environment that has qkv's dependencies, and no other qkv."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    # As plain entries of the path: what makes our own tree importable is not looked for there.
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(ours), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command, **options):
        command = [directory / "bin" / command[0], *command[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import qkv; print(qkv.__file__)").strip()
    assert Path(where).is_relative_to(packages)
    return run


def test_the_wheel_holds_every_file_of_the_package(wheel):
    tracked = subprocess.run(["git", "ls-files", "src/qkv"], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {path.removeprefix("src/") for path in tracked.stdout.split() if (ROOT / path).is_file()}
    assert {"qkv/py.typed", "qkv/__init__.py"} <= ours
    assert {Path(path).suffix for path in ours} >= {".js", ".html", ".css", ".jinja"}
    assert ours <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        about = message_from_bytes(archive.read(name))
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert (about["Name"], about["Version"]) == ("qkv", qkv.__version__)
    assert about["License-Expression"] == "Apache-2.0"


def test_the_installed_command_trains_and_translates(installed, tmp_path):
    assert installed("qkv", "--version") == f"qkv {qkv.__version__}\n"
    assert "translate" in installed("qkv", "--help")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text("ab\tba\nabc\tcba\nba\tab\n", encoding="utf-8")
    installed("qkv", "train", "recipe.yaml", "--quiet", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").is_file()
    assert len(installed("qkv", "translate", "run", cwd=tmp_path, input="ab\nba\n").splitlines()) == 2


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    sdist = build(ROOT, tmp_path, "sdist")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CONTRIBUTING.md", "docs/README.md", "tests/test_wheel.py"} <= held
    offline = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", tmp_path, sdist], check=True)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
