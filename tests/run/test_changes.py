"""A run is gone on with as it began, or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from qkv.config.loading import load_config
from qkv.errors import UserError
from qkv.run.changes import check_changes
from qkv.run.checkpoint import TrainingState, read_state
from qkv.run.directory import Run
from qkv.training.trainer import resume, train


@pytest.fixture
def data(corpus, tmp_path) -> Path:
    """A copy of the pairs, to be spoilt."""
    shutil.copytree(corpus, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(recipe, data) -> Run:
    pairs = {"root": str(data), "test": "validation.tsv"}
    settings = recipe(training={"steps": 3}, data=pairs, model={"tie": "target"})
    return train(settings, progress=False)


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("override", "old"),
    [
        ("tokenizer.vocab_size=30", "40"),
        ("tokenizer.kind=bpe", '"unigram"'),
        ("tokenizer.sampling=0.5", "0.0"),
        ("tokenizer.joint=false", "true"),
        ("data.max_length=20", "256"),
        ("data.train.format=jsonl", "null"),
        ("seed=2", "1"),
        ("model.norm_position=pre", '"post"'),
        ("model.position=rotary", '"sinusoidal"'),
        ("model.architecture=gru", '"transformer"'),
    ],
)
def test_what_it_was_made_from_stays(run, override, old):
    """The key is named with its old and its new value, and the run says what it said."""
    before = content(run.path)
    key, _, new = override.partition("=")
    with pytest.raises(UserError, match=rf'^{key} is {old} in .*run and cannot become "?{new}"?: it was made with'):
        resume(run.path, [override, "training.steps=5"], progress=False)
    assert content(run.path) == before


@pytest.mark.parametrize("override", ["training.batch_tokens=300", "training.accumulate=2"])
def test_batches_may_change_between_epochs(recipe, override):
    run = train(recipe(training={"steps": None, "epochs": 1}, validation={"every": None}), progress=False)
    resume(run.path, [override, "training.epochs=2"], progress=False)
    states = [read_state(path) for path in run.checkpoints()]
    assert [state.epoch for state in states] == [0, 1]
    assert all(state.batch == state.batches_per_epoch for state in states)
    assert states[1].target_tokens == 2 * states[0].target_tokens, "each pair once an epoch"


def test_what_may_change(run):
    changes = [
        *("training.steps=5", "training.learning_rate=1e-4", "training.ema=0.9", "training.precision=bf16"),
        *("validation.every=2", "validation.metric=cer", "checkpoints.keep=1", "model.dropout=0.3"),
        *("decoding.beam=2", "evaluation.metrics=[cer]", "threads=1", "device=cpu", "data.test=null"),
        "model.kernel_size=5",  # of another family: does nothing, and says so
    ]
    resume(run.path, changes, progress=False)
    assert read_state(run.checkpoints()[-1]).step == 5
    assert run.config.model.model_extra is not None
    assert run.config.model.model_extra["dropout"] == 0.3


def test_every_key_of_the_sections_that_stay_is_watched(config):
    """What is new in the schema is refused until it is declared."""
    before = config()
    now = before.model_copy(update={"tokenizer": before.tokenizer.model_copy(update={"character_coverage": 0.9})})
    with pytest.raises(UserError, match=r"tokenizer\.character_coverage is 1\.0"):
        check_changes(before, now, TrainingState())
    check_changes(before, before, TrainingState())
    check_changes(before, load_config(before, ["training.batch_tokens=7"]), TrainingState())


# Data


@pytest.mark.parametrize("name", ["train", "validation"])
@pytest.mark.parametrize("damage", ["a letter", "a line"])
def test_pairs_that_have_changed_are_refused(run, data, name, damage):
    path = data / f"{name}.tsv"
    text = path.read_text()
    path.write_text(text.replace("ka", "ba", 1) if damage == "a letter" else text + "kato\ttoka\n")
    before = content(run.path)
    with pytest.raises(UserError, match=rf"^data\.{name}: this run was made from .*{name}\.tsv .*has another content"):
        resume(run.path, ["training.steps=5"], progress=False)
    assert content(run.path) == before
    path.write_text(text)
    resume(run.path, ["training.steps=5"], progress=False)


def test_other_files_are_refused(run, data):
    with pytest.raises(UserError, match=r"^data\.train: .*train\.tsv .* but .*validation\.tsv .* has another content"):
        resume(run.path, ["data.train=validation.tsv"], progress=False)
    (data / "source.txt").write_text("ka\n")
    (data / "target.txt").write_text("ka\n")
    said = ["data.train.path=null", "data.train.source=source.txt", "data.train.target=target.txt"]
    with pytest.raises(UserError, match=r"^data\.train: this run was made from 1 file\(s\), not from 2"):
        resume(run.path, said, progress=False)
    with pytest.raises(UserError, match=r"missing\.tsv: no such file"):
        resume(run.path, ["data.train=missing.tsv"], progress=False)


def test_the_same_pairs_may_lie_elsewhere(run, data, tmp_path):
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    (moved / "train.tsv").rename(moved / "pairs.tsv")
    os.utime(moved / "pairs.tsv", (1, 1))
    resume(run.path, [f"data.root={moved}", "data.train=pairs.tsv", "training.steps=5"], progress=False)
    assert read_state(run.checkpoints()[-1]).step == 5


def test_pairs_that_are_gone_are_not_missed(run, data):
    """What was prepared lies in the run."""
    (data / "train.tsv").unlink()
    resume(run.path, ["training.steps=5"], progress=False)
    assert read_state(run.checkpoints()[-1]).step == 5


def test_subword_sampling_does_not_go_on_with_other_pairs(recipe, data):
    """The pairs are read again for every epoch, which may be days after the tokenizer was learnt."""
    settings = recipe(training={"steps": 3}, tokenizer={"sampling": 0.2}, data={"root": str(data)})
    run = train(settings, progress=False)
    shutil.rmtree(run.path / "encoded")
    path = data / "train.tsv"
    path.write_text(path.read_text().replace("ka", "ba", 1))
    with pytest.raises(UserError, match=r"^data\.train: this run was made from .*has another content"):
        resume(run.path, ["training.steps=5"], progress=False)


def test_validation_pairs_may_come_later(recipe):
    run = train(recipe(data={"validation": None}, training={"steps": 3}), progress=False)
    resume(run.path, ["data.validation=validation.tsv", "training.steps=5"], progress=False)
    assert [record["step"] for record in run.metrics() if record["event"] == "validation"] == [5]
