"""Validation: right numbers, the right direction, and no trace left on the training."""

import math

import pytest
import torch

from qkv.config.loading import load_config
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.errors import UserError
from qkv.metrics import compute_for_pairs
from qkv.run.preparation import pair_files, prepare
from qkv.text.corpus import read_pairs
from qkv.training.validation import Validation, Validator
from qkv.translator import Translator

CPU = torch.device("cpu")


@pytest.fixture
def prepared(recipe):
    def make(**changes):
        return prepare(load_config(recipe(**changes)), resume=False)

    return make


def test_the_loss_is_the_mean_over_target_tokens_without_smoothing(prepared):
    ready = prepared(training={"label_smoothing": 0.3, "batch_tokens": 60})
    model = ready.build_model()
    result = Validator(ready, CPU)(model)
    pairs = list(read_pairs(pair_files(ready.config, "validation")))
    scores = Translator(model, ready.tokenizers).score(pairs)
    tokens = sum(len(score.tokens) for score in scores)
    assert result.loss == pytest.approx(-sum(score.log_probability for score in scores) / tokens, rel=1e-5)
    assert result.metric == result.loss
    assert result.perplexity == pytest.approx(math.exp(result.loss))


@pytest.mark.parametrize("beam", [1, 3])
def test_the_metric_is_that_of_a_translator(prepared, beam):
    ready = prepared(validation={"metric": "cer", "beam": beam, "samples": 3})
    model = ready.build_model()
    result = Validator(ready, CPU)(model)
    pairs = list(read_pairs(pair_files(ready.config, "validation")))
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    outputs = dict(zip(sources, Translator(model, ready.tokenizers).translate(sources, beam=beam), strict=True))
    assert result.metric == compute_for_pairs(["cer"], pairs, outputs)["cer"].value
    assert result.samples == [(*pair, outputs[pair.source]) for pair in pairs[:3]]


@pytest.mark.parametrize("threads", [1, 2])
def test_it_decodes_in_the_precision_of_training(prepared, threads):
    """In every thread: a context that a thread has entered is not that of the threads it starts."""
    ready = prepared(training={"precision": "bf16"}, validation={"metric": "cer"}, decoding={"batch_tokens": 60})
    model, found = ready.build_model(), set()
    validator = Validator(ready, CPU)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with model.output.register_forward_hook(lambda module, inputs, output: found.add(output.dtype)):
            validator(model)
    finally:
        torch.set_num_threads(before)
    assert found == {torch.bfloat16}


def test_blank_sources_have_empty_outputs_and_are_not_searched(prepared, tmp_path, monkeypatch):
    (tmp_path / "validation.tsv").write_text(" \tkato\nkato\ttoka\n")
    data = {"root": str(tmp_path), "validation": "validation.tsv", "train": str(tmp_path / "train.tsv")}
    (tmp_path / "train.tsv").write_text("kato\ttoka\nmire\tremi\n" * 20)
    ready, searched = prepared(data=data, validation={"metric": "cer", "samples": 2}), []
    search = TorchEngine.search
    monkeypatch.setattr(
        TorchEngine, "search", lambda *given, **options: searched.append(given[1]) or search(*given, **options)
    )
    result = Validator(ready, CPU)(ready.build_model())
    assert [len(request.sources) for request in searched] == [1]
    assert result.samples[0] == (" ", "kato", "")


def test_only_so_many_examples_are_decoded_but_the_loss_sees_all(prepared):
    few, all_of_them = (
        Validator(prepared(run=name, validation={"metric": "cer", "max_examples": number, "samples": 5}), CPU)
        for name, number in (("a", 2), ("b", None))
    )
    torch.manual_seed(0)
    model = prepared(run="c").build_model()
    assert len(few(model).samples) == 2
    assert few(model).loss == all_of_them(model).loss


def test_it_leaves_no_trace(prepared):
    """Neither in the random numbers nor in the weights, nor in the mode that the model was in."""
    ready = prepared(validation={"metric": "cer"})
    model = ready.build_model().train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    validator = Validator(ready, CPU)
    first, second = validator(model), validator(model)
    assert first == second, "dropout is off"
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("loss", 1.0, 2.0), ("cer", 1.0, 2.0), ("bleu", 2.0, 1.0), ("exact_match", 2.0, 1.0)],
)
def test_what_is_better(prepared, metric, better, worse):
    validator = Validator(prepared(validation={"metric": metric}), CPU)
    assert validator.is_better(Validation(1.0, better), worse, 1.0)
    assert not validator.is_better(Validation(1.0, worse), better, 1.0)
    assert not validator.is_better(Validation(1.0, better), better, 1.0), "a tie in both is no progress"
    assert validator.is_better(Validation(1.0, worse), None, None)


def test_without_validation_pairs_it_is_impossible(prepared):
    assert not Validator(prepared(data={"validation": None}), CPU).possible
    assert Validator(prepared(run="other"), CPU).possible


def test_perplexity_stays_finite():
    assert math.isfinite(Validation(loss=1e6, metric=1e6).perplexity)


def test_validation_pairs_longer_than_the_learned_positions(prepared):
    message = r"data\.validation: the longest sequence has \d+ tokens, but .* only model\.max_length=4 positions"
    with pytest.raises(UserError, match=message):
        prepared(model={"position": "learned", "max_length": 4}, data={"max_length": 4})
