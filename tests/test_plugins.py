"""Another package adds to qkv by entry points alone: what it registers is used from the command line.

Each package is a module and a dist-info directory on the path of a process of its own, as pip would leave them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

SCORES = '''
"""A metric that wants the sources: the share of outputs that are their source backwards."""
from qkv.metrics import Metric

def _backwards(hypotheses, references, sources):
    return 100 * sum(output == source[::-1] for output, source in zip(hypotheses, sources, strict=True)) / len(sources)

BACKWARDS = Metric("backwards", _backwards, higher_is_better=True, by_source=True, wants_sources=True)
'''

FILES = '''
"""A format: source = target."""
from qkv.errors import UserError
from qkv.text.formats.contract import Format
from qkv.text.lines import lines_of

def _read(path, source, target):
    for number, line in enumerate(lines_of(path), start=1):
        left, equals, right = line.partition(" = ")
        if not equals:
            raise UserError(f"{path}:{number}: no equals sign")
        yield left, right

EQUATIONS = Format((".eq",), _read)
'''

MODELS = '''
"""An architecture: the mean of the source's embeddings is added to that of the last target token."""
from dataclasses import dataclass
from torch import nn
from qkv.nn.architectures import Architecture
from qkv.nn.seq2seq import CountingCache, Memory, Seq2Seq

@dataclass(frozen=True)
class BagConfig:
    """What a bag is made of.

    Attributes:
        vocab_size: source tokens.
        target_vocab_size: target tokens.
        d_model: width of embeddings.
        tie: none.
        fill: of no use.
    """

    vocab_size: int
    target_vocab_size: int
    d_model: int = 8
    tie: str = "none"
    fill: float = 0.0
    longest = None

class BagCache(CountingCache):
    def reorder(self, rows):
        self.rows = len(rows)

class Bag(Seq2Seq):
    def __init__(self, config):
        super().__init__()
        self.source = nn.Embedding(config.vocab_size, config.d_model)
        self.target = nn.Embedding(config.target_vocab_size, config.d_model)
        self.output = nn.Linear(config.d_model, config.target_vocab_size)

    def encode(self, source, source_mask=None, record=None):
        return Memory(self.source(source), source_mask)

    def start(self, memory):
        return BagCache(len(memory.states))

    def decode(self, target, memory, cache=None, record=None):
        states = memory.states if memory.mask is None else memory.states * memory.mask[:, :, None]
        if cache is not None:
            cache.advance(target.shape[1])
        return self.target(target) + states.mean(1, keepdim=True).repeat_interleave(len(target) // len(states), 0)

BAG = Architecture(BagConfig, Bag, presets={"wide": {"d_model": 16}})
'''

RECIPE = """\
run: {path}/run
device: cpu
threads: 1
data: {{root: {path}, train: pairs.eq, validation: pairs.eq, test: {{path: pairs.txt, format: equations}}}}
tokenizer: {{kind: char}}
model: {{architecture: bag, preset: wide}}
training: {{steps: 2}}
validation: {{metric: backwards}}
decoding: {{engine: torch}}
evaluation: {{metrics: [backwards, cer]}}
"""
PAIRS = "ab = ba\nabc = cba\nba = ab\n"


def install(site: Path, module: str, code: str, **entries: str) -> None:
    """A package `module` whose entry points are given as group (without `qkv.`) → `name = object`."""
    (site / f"{module}.py").write_text(code, "utf-8")
    about = site / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", "utf-8")
    groups = [f"[qkv.{group}]\n{entry.replace(' = ', f' = {module}:')}\n" for group, entry in entries.items()]
    (about / "entry_points.txt").write_text("\n".join(groups), "utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where packages are installed."""
    site = tmp_path_factory.mktemp("site")
    install(site, "toy_scores", SCORES, metrics="backwards = BACKWARDS")
    install(site, "toy_files", FILES, formats="equations = EQUATIONS")
    install(site, "toy_models", MODELS, architectures="bag = BAG")
    broken = dict.fromkeys(("metrics", "formats", "architectures"), "broken = BROKEN")
    install(site, "toy_broken", "raise RuntimeError('out of order')", **broken)
    return site


@pytest.fixture(scope="module")
def command(site):
    """Run qkv where the packages are installed."""

    def command(*arguments, stdin=""):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(site)])}
        line = [sys.executable, "-m", "qkv", *map(str, arguments)]
        return subprocess.run(line, env=environment, input=stdin, capture_output=True, text=True)

    return command


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """A run whose architecture, files and metric are all of other packages."""
    path = tmp_path_factory.mktemp("plugins")
    for name in ("pairs.eq", "pairs.txt"):
        (path / name).write_text(PAIRS, "utf-8")
    (path / "recipe.yaml").write_text(RECIPE.format(path=path), "utf-8")
    trained = command("train", path / "recipe.yaml", "--quiet")
    assert trained.returncode == 0, trained.stderr
    return path / "run"


def test_an_architecture_is_trained_and_searched(command, run):
    assert "architecture: bag\n  preset: wide\n  d_model: 16\n" in (run / "config.yaml").read_text("utf-8")
    translated = command("translate", run, "--beam", "3", stdin="ab\nabc\n")
    assert translated.returncode == 0, translated.stderr
    assert len(translated.stdout.splitlines()) == 2


def test_a_metric_and_a_format_are_used_from_the_recipe(command, run):
    evaluated = command("evaluate", run)
    assert evaluated.returncode == 0, evaluated.stderr
    assert [line.split()[0] for line in evaluated.stdout.splitlines()] == ["3", "backwards", "cer"]


def test_a_metric_and_a_format_are_used_from_the_command_line(command, run):
    evaluated = command("evaluate", run, "--metrics", "backwards", "--data", run.parent / "pairs.eq")
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.splitlines()[1].startswith("backwards ")
    (run.parent / "broken.eq").write_text("ab\n", "utf-8")
    broken = command("evaluate", run, "--data", run.parent / "broken.eq")
    assert (broken.returncode, broken.stderr) == (2, f"qkv: {run.parent}/broken.eq:1: no equals sign\n")


def test_what_another_package_adds_is_suggested_like_our_own(command, run):
    asked = command("evaluate", run, "--metrics", "backward")
    assert (asked.returncode, asked.stderr) == (2, "qkv: unknown metric 'backward'; did you mean backwards?\n")
    asked = command("train", run.parent / "recipe.yaml", "model.architecture=bagg")
    assert asked.returncode == 2
    assert asked.stderr.endswith("model.architecture: unknown architecture 'bagg'; did you mean bag?\n")


def test_an_option_of_the_architecture_may_stand_alone_on_the_command_line(command, run):
    trained = command("train", run.parent / "recipe.yaml", f"run={run}-filled", "--quiet", "fill=0.5")
    assert trained.returncode == 0, trained.stderr
    assert "fill: 0.5\n" in (run.parent / "run-filled" / "config.yaml").read_text("utf-8")


def test_a_package_that_cannot_be_loaded_is_named_when_it_is_asked_for_and_else_in_nobodys_way(command, run):
    """The runs of this file were trained beside it, one with an architecture of another package and one with qkv's."""
    says = "of the package toy_broken cannot be loaded: out of order\n"
    for arguments, what in [
        (("evaluate", run, "--metrics", "broken"), "metric"),
        (("train", run.parent / "recipe.yaml", "model.architecture=broken"), "architecture"),
        (
            ("train", run.parent / "recipe.yaml", f"run={run}-none", "data.train={path: pairs.txt, format: broken}"),
            "format",
        ),
    ]:
        asked = command(*arguments)
        assert asked.returncode == 2
        assert asked.stderr.endswith(f"{what} 'broken' {says}")
    assert command("evaluate", run, "--metrics", "cer").returncode == 0
    (run.parent / "pairs.xyz").write_text(PAIRS, "utf-8")
    asked = command("evaluate", run, "--data", run.parent / "pairs.xyz")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "pairs.xyz: the suffix does not tell the format; set 'format' to" in asked.stderr
    said = [f"run={run}-own", "--quiet", "steps=1", "model={architecture: gru, preset: tiny}"]
    own = command("train", run.parent / "recipe.yaml", *said)
    assert own.returncode == 0, own.stderr
