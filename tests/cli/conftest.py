"""What the tests of the command line share: a run that is trained in a second or two, and ways to run a command."""

import io
import select
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import qkv
from qkv.cli.main import main

WORDS = ["ab", "ba", "abc", "cab", "bad", "dab", "cd", "dcba", "abba", "cada"]
PAIRS = [(word, " ".join(word).upper().replace("A", "Ä")) for word in WORDS]

RECIPE = """\
data: {{root: {data}, train: train.tsv, validation: train.tsv, test: test.tsv}}
seed: 3
threads: 1
tokenizer: {{kind: char}}
model: {{d_model: 16, num_heads: 2, d_ff: 32, encoder_layers: 1, decoder_layers: 1, dropout: 0.0}}
training: {{steps: 8, batch_tokens: 64, warmup_steps: 2, learning_rate: 1e-2}}
validation: {{every: 2, samples: 0}}
decoding: {{beam: 2, engine: torch}}
evaluation: {{metrics: [wer, per]}}
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    (path / "train.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), "utf-8")
    # One source has two references.
    (path / "test.tsv").write_text("ab\tÄ B\nab\tB Ä\ndada\tD Ä D Ä\n", "utf-8")
    (path / "test.source").write_text("ab\ncab\n", "utf-8")
    (path / "test.target").write_text("Ä B\nC Ä B\n", "utf-8")
    (path / "recipe.yaml").write_text(RECIPE.format(data=path), "utf-8")
    return path


@pytest.fixture(scope="session")
def recipe(data):
    return str(data / "recipe.yaml")


@pytest.fixture(scope="session")
def run(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "läuft"
    assert main(["train", recipe, f"run={path}", "--quiet"]) == 0
    return str(path)


@pytest.fixture(scope="session")
def short_run(recipe, tmp_path_factory):
    """One whose model reads at most 7 characters."""
    path = tmp_path_factory.mktemp("runs") / "short"
    changes = ["model.position=learned", "model.max_length=8", "data.max_length=8"]
    assert main(["train", recipe, f"run={path}", "--quiet", *changes]) == 0
    return str(path)


@pytest.fixture(scope="session")
def translator(run):
    return qkv.load(run)


@pytest.fixture
def own_run(run, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(run, tmp_path / "own", symlinks=True)
    return str(tmp_path / "own")


@pytest.fixture
def ok(capsys):
    """Run a command that must succeed without a word on standard error; its lines on standard output."""

    def ok(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return ok


@pytest.fixture
def told(capsys):
    """Run a command that must succeed; its lines on standard output, and what it says on standard error."""

    def told(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err.splitlines()

    return told


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused with exit code 2, in one line, with nothing done; what it says."""

    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("qkv: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("qkv: ").removesuffix("\n")

    return refused


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    """Put bytes on standard input, which is empty otherwise."""

    def typed(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))

    typed(b"")
    return typed


@pytest.fixture
def dialogue():
    """Start a command whose input is a pipe, and stay in talk with it: `say` a line, and get the answer to it."""

    @contextmanager
    def dialogue(*arguments):
        command = [sys.executable, "-m", "qkv", *map(str, arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(command, **pipes) as process:

            def say(line):
                process.stdin.write(line.encode())
                process.stdin.flush()
                assert select.select([process.stdout], [], [], 120)[0], "no answer"
                return process.stdout.readline().decode()

            process.say = say
            try:
                yield process
            finally:
                process.kill()

    return dialogue


@pytest.fixture(scope="session")
def faulty():
    """Write a file with content that is, or could be, at fault; its path."""

    def faulty(tmp_path, name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return faulty


@pytest.fixture(scope="session")
def tree():
    """Every file below a directory, with its content."""

    def tree(directory):
        return {path: path.read_bytes() for path in sorted(Path(directory).rglob("*")) if path.is_file()}

    return tree
