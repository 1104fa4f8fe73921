"""One rule for blank lines: a blank source has a blank output, wherever outputs are made, and counts as any other."""

import io
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkv.cli.main import main
from qkv.comparison.measure import measure
from qkv.config.loading import load_config
from qkv.evaluation.evaluate import evaluate
from qkv.loading import load
from qkv.run.preparation import pair_files, prepare
from qkv.text.corpus import Pair
from qkv.training.trainer import train
from qkv.training.validation import Validator
from qkv.translator import Translator

pytestmark = pytest.mark.usefixtures("without_shape_checks")

BLANK = st.text(alphabet=" \u00a0\u2003\u3000\u1680", max_size=4)
PAIRS = [Pair("kato", "toka"), Pair(" ", "mi"), Pair("", ""), Pair("\u00a0\u3000", ""), Pair("mire", "")]


@pytest.fixture(scope="module")
def run(make_recipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("blank")
    lines = "".join(f"{source}\t{target}\n" for source, target in PAIRS)
    (place / "pairs.tsv").write_text(lines, "utf-8")
    recipe = make_recipe(
        place / "run",
        data={"validation": str(place / "pairs.tsv"), "test": str(place / "pairs.tsv")},
        training={"steps": 6},
        validation={"every": 6, "metric": "exact_match", "samples": 5, "beam": 2},
        decoding={"beam": 2, "engine": "torch"},
        evaluation={"metrics": ["exact_match"]},
    )
    return train(recipe, progress=False)


def test_outputs_and_scores_are_the_same_wherever_they_are_made(run, tmp_path, monkeypatch, capsys):
    outputs = [load(run.path).translate(pair.source) for pair in PAIRS]
    assert [bool(output) for output in outputs[1:4]] == [False] * 3
    right = 100 * sum(output == pair.target for output, pair in zip(outputs, PAIRS, strict=True)) / len(PAIRS)
    assert right >= 40, "blank for blank is right, and what is blank is wrong where something was wanted"

    (validation,) = (record for record in run.metrics() if record["event"] == "validation")
    assert [sample["output"] for sample in validation["samples"]] == outputs
    assert validation["exact_match"] == right

    evaluation = evaluate(load(run.path), pair_files(run.config, "test"), ["exact_match"])
    assert (evaluation.outputs, evaluation.scores["exact_match"].value) == (outputs, right)
    assert evaluation.remarks == ["3 of 5 sources are blank, the first in pair 2: so is the output"]
    assert measure(run.config, ["exact_match"], None).scores[0].value == right

    sources = "".join(f"{pair.source}\n" for pair in PAIRS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sources.encode())))
    assert main(["translate", str(run.path)]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == outputs
    assert main(["evaluate", str(run.path), "--output", str(tmp_path / "out.txt")]) == 0
    assert (tmp_path / "out.txt").read_text("utf-8").split("\n")[:-1] == outputs
    assert "3 of 5 sources are blank" in capsys.readouterr().err


@given(sources=st.lists(BLANK | st.sampled_from(["kato", "mi re", " ka"]), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_validation_agrees_with_translation(recipe, tmp_path_factory, sources):
    """Whatever is blank, and whatever stands beside it."""
    place = tmp_path_factory.mktemp("validated")
    (place / "pairs.tsv").write_text("".join(f"{source}\tx\n" for source in [*sources, "ka"]), "utf-8")
    changes = {"data": {"validation": str(place / "pairs.tsv")}, "validation": {"metric": "cer", "samples": 9}}
    ready = prepare(load_config(recipe(str(place / "run"), **changes)), resume=False)
    model = ready.build_model()
    samples = Validator(ready, torch.device("cpu"))(model).samples
    translated = Translator(model, ready.tokenizers).translate([source for source, _, _ in samples], beam=1)
    assert [output for _, _, output in samples] == translated
    assert all(not output for source, _, output in samples if not source.strip())


def test_the_probability_of_a_target_is_the_models_own_for_a_blank_source_too(run):
    """`score` searches for nothing: any target may be asked about, and that of nothing is as good a question."""
    score, other = load(run.path).score([("", "toka"), (" ", "toka")])
    assert score.token_log_probabilities == other.token_log_probabilities
    assert score.log_probability < 0
