"""Precisions and shortlists: what a translator searches with, and what is refused."""

import pytest
import torch

import qkv
from qkv.decoding.engines.torch_engine import TorchEngine, lower_precision
from qkv.errors import UserError
from qkv.nn import Transformer, TransformerConfig

pytestmark = pytest.mark.usefixtures("without_shape_checks")
WORDS = ["abba", "bead", "cab", "dad", "face", "bag", "cafe", "fade"] * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory, without_shape_checks):
    directory = tmp_path_factory.mktemp("copy")
    (directory / "train.tsv").write_text("".join(f"{word}\t{word}\n" for word in WORDS))
    recipe = {
        "run": str(directory / "run"),
        "device": "cpu",
        "threads": 1,
        "data": {"train": str(directory / "train.tsv")},
        "tokenizer": {"kind": "char"},
        "model": {"d_model": 32, "num_heads": 2, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 1},
        "training": {"steps": 60, "batch_tokens": 512, "learning_rate": 5e-3, "warmup_steps": 20},
    }
    return qkv.train(recipe, progress=False).path


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bf16"}, {"shortlist": 3}], ids=str)
def test_outputs_and_scores_are_close_to_those_of_float32(run, options):
    exact, other = qkv.load(run, device="cpu"), qkv.load(run, device="cpu", **options)
    assert isinstance(other.engine, TorchEngine)
    words = sorted(set(WORDS))
    same = sum(a == b for a, b in zip(exact.translate(words), other.translate(words), strict=True))
    assert same >= len(words) - 2
    pairs = [(word, word) for word in words]
    for found, expected in zip(other.score(pairs), exact.score(pairs), strict=True):
        assert found.log_probability == pytest.approx(expected.log_probability, abs=0.3)


def test_a_shortlist_is_learnt_once_and_kept_with_the_run(run):
    qkv.load(run, device="cpu", shortlist=2)
    path = run / "shortlist-2.safetensors"
    before = path.stat().st_mtime_ns
    qkv.load(run, device="cpu", shortlist=2)
    assert path.stat().st_mtime_ns == before


def test_the_model_itself_stays_as_it_is(run):
    translator = qkv.load(run, device="cpu", precision="int8")
    assert all(parameter.dtype == torch.float32 for parameter in translator.model.parameters())
    assert translator.engine is not None
    assert translator.engine.model is not translator.model


def test_who_changes_a_weight_sees_what_comes_of_it(run):
    """And who puts a hook on the model is called."""
    translator, words, calls = qkv.load(run, device="cpu"), sorted(set(WORDS)), []
    before = translator.translate(words)
    with torch.no_grad():
        translator.model.output.weight.mul_(-1.0)
    changed = translator.translate(words)
    assert changed != before
    assert translator.engine.model is not translator.model
    hook = translator.model.decoder.layers[0].attention.output.register_forward_hook(lambda *_: calls.append(1))
    assert translator.translate(words) == changed
    assert calls
    hook.remove()
    assert translator.engine.model is not translator.model


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("int4", "cpu", "unknown precision 'int4'"),
        ("fp16", "cpu", "fp16 is for cuda"),
        ("int8", "cuda", "int8 is for a CPU"),
    ],
)
def test_what_cannot_be_is_refused(precision, device, message):
    model = Transformer(TransformerConfig(9, d_model=8, num_heads=2, d_ff=8, encoder_layers=1, decoder_layers=1))
    with pytest.raises(UserError, match=message):
        lower_precision(model, precision, torch.device(device))
