"""The comparison as a whole: trained alike, interrupted and resumed, refused, reported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import qkv
from qkv.comparison import compare as module
from qkv.comparison.compare import compare
from qkv.errors import UserError
from qkv.run.directory import Run

pytestmark = pytest.mark.usefixtures("without_shape_checks")

VARY = {"model.norm_position": ["pre", "post"]}
NAMES = ["norm_position=pre", "norm_position=post"]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A comparison of two variants; not to be changed."""
    output = tmp_path_factory.mktemp("compare") / "done"
    return compare(data / "recipe.yaml", VARY, output=output, progress=False)


@pytest.fixture(autouse=True)
def no_charts(monkeypatch):
    """They take more time than all the rest; `finished` has them."""
    monkeypatch.setattr("qkv.comparison.report.charts", lambda comparison: [])


@pytest.fixture
def own(finished, tmp_path):
    """A copy of its directory that may be changed."""
    shutil.copytree(finished.output, tmp_path / "own", symlinks=True)
    return tmp_path / "own"


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that are trained, or trained on, from now on."""
    names = []

    def resume(path, **options):
        names.append(Path(path).name)
        return qkv.training.trainer.resume(path, **options)

    monkeypatch.setattr(module, "resume", resume)
    return names


@pytest.fixture
def measured(monkeypatch):
    names = []

    def measure(config, *arguments, **options):
        names.append(Path(config.run).name)
        return qkv.comparison.measure.measure(config, *arguments, **options)

    monkeypatch.setattr(module, "measure", measure)
    return names


def go_on(recipe, output, vary=VARY, **options):
    return compare(recipe, vary, output=output, progress=False, **options)


# What is found


def test_every_variant_is_trained_and_measured(finished):
    assert [row.name for row in finished.rows] == NAMES
    for row in finished.rows:
        measured = row.measurement
        run = Run.open(Path(finished.output, row.name))
        parameters = sum(parameter.numel() for parameter in qkv.load(run.path).model.parameters())
        assert measured.parameters == parameters
        assert measured.steps == 12
        assert measured.architecture == "transformer"
        assert [point.step for point in measured.training] == [3, 6, 9, 12]
        assert [point.step for point in measured.validation] == [4, 8, 12]
        assert measured.training[-1].target_tokens == measured.target_tokens
        assert measured.validation[-1].target_tokens == measured.target_tokens
        assert all(point.metric is not None for point in measured.validation)
        assert measured.tokens_per_second > 0
        assert [score.name for score in measured.scores] == ["per", "bleu"]
        assert measured.scores[1].signature
        assert (measured.pairs_name, measured.pairs, measured.beam) == ("test", 24, 2)
        assert sum(bucket.pairs for bucket in measured.by_length) == 24
        assert measured.length_unit == "words"
        assert len(measured.examples) == 5
        assert [time.length for time in measured.times] == [4, 8]
        assert (measured.environment.device, measured.environment.threads) == ("cpu", 1)
    sources = [[example.source for example in row.measurement.examples] for row in finished.rows]
    assert sources[0] == sources[1]


def test_the_scores_are_those_of_evaluate(finished, data):
    from qkv.evaluation.evaluate import evaluate
    from qkv.text.corpus import PairFiles

    for row in finished.rows:
        translator = qkv.load(Path(finished.output, row.name))
        expected = evaluate(translator, PairFiles(path=data / "test.tsv"), ["per", "bleu"]).scores
        assert row.measurement.scores == list(expected.values())


def test_the_variants_are_trained_as_the_recipe_says_but_for_what_is_varied(finished, data):
    configs = [Run(Path(finished.output, name)).config for name in NAMES]
    pre, post = (config.model_dump(exclude={"run"}) for config in configs)
    assert pre["model"].pop("norm_position") == "pre"
    assert post["model"].pop("norm_position") == "post"
    assert pre == post
    assert finished.config["training.steps"] == 12
    assert "model.norm_position" not in finished.config


def test_a_variant_is_the_run_that_train_makes(finished, recipe, tmp_path):
    run = qkv.train(recipe, ["model.norm_position=post", f"run={tmp_path}/run"], progress=False)
    ours = Run(Path(finished.output, "norm_position=post"))
    for name in ("best/model.safetensors", "tokenizer/joint.model", "encoded/train/source.ids"):
        assert (run.path / name).read_bytes() == (ours.path / name).read_bytes()


def test_tokenizers_and_encoded_pairs_are_made_once(finished):
    pre, post = (Path(finished.output, name) for name in NAMES)
    for name in ("encoded/train/source.ids", "encoded/validation/target.ids", "tokenizer/joint.model"):
        assert (pre / name).samefile(post / name)


def test_what_is_written_is_what_is_returned(finished):
    output, examples = Path(finished.output), finished.rows[0].measurement.examples
    assert (output / "comparison.json").read_text("utf-8") == finished.to_json()
    assert (output / "compare.md").read_text("utf-8") == finished.to_markdown()
    page = (output / "compare.html").read_text("utf-8")
    assert page.count("<svg") == 8
    assert all(example.source.replace("<", "&lt;").replace(">", "&gt;") in page for example in examples)
    found = json.loads(finished.to_json())
    assert found["environment"]["torch"]
    assert found["command"].endswith(f"--vary model.norm_position=pre,post --output {finished.output}")


# Going on


def test_called_again_nothing_is_repeated(finished, own, recipe, trained, measured):
    again = go_on(recipe, own)
    assert (trained, measured) == ([], [])
    assert again.rows == finished.rows


def test_a_value_that_is_added_is_all_that_is_trained(own, recipe, trained, measured):
    again = go_on(recipe, own, {"model.norm_position": ["post"], "num_heads": ["2"]})
    assert [row.name for row in again.rows] == trained == measured == ["norm_position=post,num_heads=2"]
    shutil.rmtree(own / NAMES[1])
    trained.clear(), measured.clear()
    go_on(recipe, own)
    assert trained == measured == [NAMES[1]]


def test_trained_but_not_measured_is_only_measured(finished, own, recipe, trained, measured):
    (own / NAMES[0] / "measurement.json").unlink()
    again = go_on(recipe, own)
    assert (trained, measured) == ([], [NAMES[0]])
    assert again.rows[0].measurement.scores == finished.rows[0].measurement.scores


def test_other_metrics_or_another_beam_measure_again(own, recipe, trained, measured):
    again = go_on(recipe, own, metrics=["chrf"], beam=1)
    assert (trained, measured) == ([], NAMES)
    assert [[score.name for score in row.measurement.scores] for row in again.rows] == [["chrf"]] * 2
    assert again.rows[0].measurement.beam == again.rows[0].measurement.decoding.beam == 1


@pytest.mark.parametrize("moment", ["before the first step", "half-way", "nearly done"])
def test_an_interrupted_training_goes_on(moment, finished, recipe, tmp_path, monkeypatch, trained):
    """It comes to the weights of the one that never stopped, and the variant before it is left alone."""
    from qkv.training.trainer import Trainer

    step = {"before the first step": 0, "half-way": 6, "nearly done": 12}[moment]
    real = Trainer._report_and_save
    began = Trainer.run_to_the_end

    def dies(self):
        real(self)
        if self.run.path.name == NAMES[1] and self.state.step == step:
            raise KeyboardInterrupt

    def dies_at_once(self):
        if self.run.path.name == NAMES[1] and step == 0:
            raise KeyboardInterrupt
        began(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_report_and_save", dies)
        patch.setattr(Trainer, "run_to_the_end", dies_at_once)
        with pytest.raises(KeyboardInterrupt):
            go_on(recipe, tmp_path / "c")
    assert len(json.loads((tmp_path / "c" / "comparison.json").read_text("utf-8"))["rows"]) == 1
    before = (tmp_path / "c" / NAMES[0] / "best" / "model.safetensors").stat().st_mtime_ns
    trained.clear()
    again = go_on(recipe, tmp_path / "c")
    assert trained == [NAMES[1]]
    assert (tmp_path / "c" / NAMES[0] / "best" / "model.safetensors").stat().st_mtime_ns == before
    for row, whole in zip(again.rows, finished.rows, strict=True):
        assert row.measurement.scores == whole.measurement.scores
        assert row.measurement.target_tokens == whole.measurement.target_tokens


# Refusals


@pytest.mark.parametrize(
    ("override", "key"),
    [("training.steps=13", "training.steps"), ("seed=9", "seed"), ("data.validation=test.tsv", "data.validation.path")],
)
def test_a_directory_of_another_recipe_is_refused(override, key, own, recipe, trained):
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*")}
    with pytest.raises(UserError) as raised:
        go_on(recipe, own, overrides=[override])
    assert f"in which {key} is" in str(raised.value)
    assert "choose another --output" in str(raised.value)
    assert trained == []
    assert {path: path.stat().st_mtime_ns for path in own.rglob("*")} == before


def test_a_budget_is_part_of_the_recipe(own, recipe):
    with pytest.raises(UserError, match=r"training\.budget is null, not 60\.0"):
        go_on(recipe, own, budget="1m")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data.train=nowhere.tsv"], "no such file"),
        (["data.train=null"], "data.train is not set"),
        (["data.test=null", "data.validation=null"], "nothing to compare the variants on"),
        (["evaluation.metrics=[]"], "nothing to compare the variants by"),
        (["device=gpu"], "unknown device 'gpu'"),
    ],
)
def test_nothing_is_trained_by_a_recipe_that_cannot_be_compared(overrides, complaint, recipe, tmp_path, trained):
    with pytest.raises(UserError, match=complaint):
        go_on(recipe, tmp_path / "c", overrides=overrides)
    assert trained == []
    assert not (tmp_path / "c").exists()


def test_a_directory_that_is_no_run_is_left_alone(recipe, tmp_path):
    (tmp_path / "c" / NAMES[0]).mkdir(parents=True)
    (tmp_path / "c" / NAMES[0] / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not a run directory"):
        go_on(recipe, tmp_path / "c")
    assert (tmp_path / "c" / NAMES[0] / "thesis.txt").read_text() == "mine"


# Failures and special cases


def test_a_variant_that_fails_is_reported_and_the_others_go_on(recipe, tmp_path, trained):
    vary = {"training.learning_rate": ["1e30", "0.01"]}
    overrides = ["training.clip_norm=null", "training.warmup_steps=0", "training.steps=6"]
    found = go_on(recipe, tmp_path / "c", vary, overrides=overrides)
    bad, good = found.rows
    assert bad.measurement is None
    assert "not a number at step" in bad.failure
    assert good.failure is None
    assert good.measurement.steps == 6
    assert bad.failure.partition(";")[0] in found.to_markdown()
    trained.clear()
    go_on(recipe, tmp_path / "c", vary, overrides=overrides)
    assert trained == ["learning_rate=1e30"], "it is tried again, the other one is not"


def test_what_one_variant_does_to_torch_the_next_does_not_meet(recipe, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = go_on(recipe, tmp_path, {"threads": [1, None]}, overrides=["training.steps=2"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [row.measurement.environment.threads for row in found.rows] == [1, 2], "null: all that there are"


def test_without_test_pairs_the_validation_pairs_count(recipe, tmp_path):
    found = go_on(recipe, tmp_path / "c", {"seed": [1]}, overrides=["data.test=null", "steps=2"])
    assert (found.rows[0].measurement.pairs_name, found.rows[0].measurement.pairs) == ("validation", 10)
    assert "10 validation pairs" in found.to_markdown()


def test_other_tokenizers_are_not_shared(recipe, tmp_path):
    found = go_on(recipe, tmp_path / "c", {"tokenizer.kind": ["word", "char"]}, overrides=["steps=1"])
    word, char = (Path(found.output, row.name, "tokenizer", "joint.model") for row in found.rows)
    assert not word.samefile(char)
    assert qkv.load(char.parents[1]).tokenizers.source.kind == "char"


def test_a_mapping_can_be_compared(recipe, tmp_path, monkeypatch):
    from qkv.config.recipe import read_recipe

    monkeypatch.chdir(tmp_path)
    found = qkv.compare(read_recipe(recipe), vary={"seed": [3]}, overrides=["training.steps=1"], progress=False)
    assert found.output == "runs/compare"
    assert found.command is None
    assert found.measured


def test_progress_names_the_variant(own, recipe, capsys):
    compare(recipe, VARY, output=own)
    assert capsys.readouterr().err.splitlines() == ["1 of 2: norm_position=pre", "2 of 2: norm_position=post"]


def test_a_variant_is_locked_while_it_is_prepared(recipe, tmp_path, monkeypatch):
    seen = []

    def prepare(config, *, resume):
        seen.append(Run(config.run).lock_path.exists())
        raise UserError("enough is known")

    monkeypatch.setattr(module, "prepare", prepare)
    comparison = go_on(recipe, tmp_path / "own")
    assert seen == [True, True]
    assert [row.failure for row in comparison.rows] == ["enough is known"] * 2
