"""What is said before a training: only what is true, and of a clean one nothing."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
from qkv.config.loading import load_config, model_options
from qkv.nn.architectures import ARCHITECTURES
from qkv.training.cautions import PARAMETERS_PER_PAIR, before_training
from qkv.training.trainer import resume, train

pytestmark = pytest.mark.usefixtures("without_shape_checks")

ROOT = Path(__file__).parents[2]
PAIRS = {"cmudict": 105_000, "demo": 105_000, "dna": 20_000, "multi30k": 29_000, "wmt14": 4_500_000}


@pytest.fixture
def recipe(recipe, corpus, tmp_path):
    """Its validation pairs are none of the training pairs."""
    known = (corpus / "train.tsv").read_text().splitlines()
    lines = (corpus / "validation.tsv").read_text().splitlines()
    new = tmp_path / "new.tsv"
    new.write_text("".join(f"{line}\n" for line in lines if line not in known))

    def make(name="run", **changes):
        return recipe(name, **changes | {"data": {"validation": str(new)} | changes.get("data", {})})

    return make


@pytest.fixture
def said(recipe, capsys):
    """What a new training says, without what it always says."""

    def of(name="run", **changes):
        train(recipe(name, **changes))
        return told(capsys.readouterr().err)

    return of


def told(text):
    usual = r" *\d+%  step|training: |resuming at|step \d|done: |    (source|reference|output) "
    return [line for line in text.splitlines() if not re.match(usual, line)]


# Nothing new for those who have nothing to hear


def test_a_clean_run_says_what_it_always_has(recipe, capsys):
    """A line at the beginning, one for each validation and three for each of its samples, and one at the end."""
    train(recipe(training={"steps": 20}, validation={"every": 5, "samples": 2}))
    lines = without_bar(capsys.readouterr().err)
    assert len(lines) == 1 + 4 * (1 + 3 * 2) + 1
    assert [line.split()[0] for line in lines[:2]] == ["training:", "step"]
    assert lines[-1].startswith("done: 20 steps")
    resume(recipe()["run"], ["training.steps=25"])
    assert len(without_bar(capsys.readouterr().err)) == 1 + 7 + 1


def without_bar(text):
    """Without the lines that stand for the bar every half minute."""
    return [line for line in text.splitlines() if not re.match(r" *\d+%  step", line)]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_of_ours_is_warned_of(path):
    """Neither of its size nor of its warm-up; its pairs are those that its data is said to have."""
    config = load_config(path)
    if config.data.train is None:
        return  # reference.yaml
    pairs = next(count for name, count in PAIRS.items() if name in config.data.root or name in path.stem)
    vocabulary = config.tokenizer.vocab_size
    options = model_options(config.model, vocab_size=vocabulary, target_vocab_size=vocabulary)
    model = ARCHITECTURES[config.model.architecture].build(options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters < PARAMETERS_PER_PAIR * pairs / 10
    lengths = [10] * pairs if config.training.epochs else []
    corpus = SimpleNamespace(source_lengths=_array(lengths), target_lengths=_array(lengths))
    assert list(before_training(SimpleNamespace(config=config), corpus, parameters, is_new=False)) == []


def _array(values):
    import numpy

    return numpy.array(values, numpy.int32)


# Each of them, where it is true


def test_a_warm_up_that_outlasts_training(said):
    (line,) = said(training={"steps": 6, "warmup_steps": 1000})
    assert line == (
        "training.warmup_steps is 1,000, but training ends at step 6: the learning rate is still rising then; "
        "set warmup_steps to 1, say"
    )
    assert said("other", training={"steps": 6, "warmup_steps": 5}) == []


@given(
    steps=st.none() | st.integers(1, 40),
    epochs=st.none() | st.integers(1, 4),
    accumulate=st.integers(1, 3),
    warmup=st.integers(0, 60),
    budget=st.none() | st.just(60.0),
)
@settings(deadline=None)
def test_a_warm_up_is_warned_of_where_it_outlasts_training_alone(
    make_recipe, steps, epochs, accumulate, warmup, budget
):
    """20 pairs, 4 to a batch: 5 batches an epoch."""
    training = {"steps": steps, "epochs": epochs, "accumulate": accumulate, "warmup_steps": warmup, "budget": budget}
    config = load_config(make_recipe("run", training=training | {"batch_tokens": 40}))
    corpus = SimpleNamespace(source_lengths=_array([10] * 20), target_lengths=_array([10] * 20))
    ends = [bound for bound in (steps, epochs and epochs * -(-5 // accumulate)) if bound]
    lines = list(before_training(SimpleNamespace(config=config), corpus, 1, is_new=False))
    assert bool(lines) == (bool(ends) and budget is None and warmup >= min(ends))


def test_validation_pairs_that_are_training_pairs(said, corpus, tmp_path):
    pairs = (corpus / "train.tsv").read_text().splitlines()
    other = (corpus / "validation.tsv").read_text().splitlines()
    new = [line for line in other if line not in pairs]
    (tmp_path / "mixed.tsv").write_text("\n".join([*new[:5], pairs[0], *new[5:], pairs[7]]) + "\n")
    (line,) = said(data={"validation": str(tmp_path / "mixed.tsv")}, training={"steps": 6})
    assert line == (
        f"2 of {len(new) + 2} validation pairs are training pairs too, the first is pair 6: what is learnt by heart is "
        "taken for progress; leave them out of one of the two"
    )


def test_a_few_short_pairs_that_come_twice_by_nature_are_not_told(said, tmp_path):
    train_pairs = [f"{number}\t{number}" for number in range(500)]
    (tmp_path / "train.tsv").write_text("\n".join(train_pairs) + "\n")
    new = [f"1{number}\t1{number}" for number in range(500, 800)]
    for repeated, lines in ((2, 0), (4, 1)):
        (tmp_path / f"{repeated}.tsv").write_text("\n".join([*new, *train_pairs[:repeated]]) + "\n")
        data = {"root": str(tmp_path), "validation": f"{repeated}.tsv"}
        assert len(said(f"run{repeated}", data=data, training={"steps": 6})) == lines


def test_a_model_that_is_far_too_large(said, tmp_path, recipe, capsys):
    (tmp_path / "two.tsv").write_text("ab\tba\nabc\tcba\n")
    data = {"root": str(tmp_path), "train": "two.tsv", "validation": None}
    (line,) = said("large", data=data, training={"steps": 6}, model={"d_model": 64, "d_ff": 128})
    assert re.fullmatch(
        r"the model has \d+,\d+ parameters for 2 training pairs, and will know them by heart; take a smaller one "
        r"\(model\.preset=tiny\), or more pairs",
        line,
    )
    resume(recipe("large")["run"], ["training.steps=8"])
    assert told(capsys.readouterr().err) == [], "said once"


def test_what_takes_validation_pairs(said):
    assert said(data={"validation": None}, training={"steps": 6}, validation={"metric": "cer", "patience": 3}) == [
        "validation.metric and validation.patience: of no effect, as there are no validation pairs; "
        "say data.validation=FILE"
    ]
    assert said("other", data={"validation": None}, training={"steps": 6}) == []


@pytest.mark.parametrize(("steps", "remark"), [(2, "none was averaged"), (4, "(average of 2, all that there are")])
def test_an_average_says_of_how_many(recipe, capsys, steps, remark):
    run = train(recipe(training={"steps": steps, "average_last": 5}, validation={"every": 2}))
    text = capsys.readouterr().err
    assert remark in text
    assert "average of 5" not in text
    assert run.best_path.exists()


def test_an_average_of_one_is_refused(recipe):
    with pytest.raises(qkv.UserError, match=r"^training\.average_last is 1: an average takes at least 2 checkpoints"):
        train(recipe(training={"average_last": 1}), progress=False)
    run = train(recipe(training={"steps": 2}), progress=False)
    with pytest.raises(qkv.UserError, match=r"^training\.average_last is 1"):
        resume(run.path, ["training.average_last=1", "training.steps=4"], progress=False)
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("average_last: 0", "average_last: 1"))  # as an older qkv let pass
    resume(run.path, ["training.steps=4"], progress=False)
