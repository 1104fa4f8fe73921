"""The engine that nobody named: CTranslate2 where it can, torch where it cannot, and never an error in between."""

import shutil
import sys

import pytest
import torch

import qkv
from qkv.cli.main import main
from qkv.decoding.engines import PRECISIONS, automatic, ctranslate2_cache
from qkv.decoding.engines.registry import ENGINES
from qkv.decoding.engines.torch_engine import TorchEngine

ctranslate2 = pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture
def mine(run, tmp_path):
    """A copy of the run that a test may change."""
    return shutil.copytree(run, tmp_path / "run", symlinks=True, ignore=shutil.ignore_patterns("engines"))


@pytest.fixture
def asked(monkeypatch):
    """How many sources each engine was asked for."""
    counts = {"torch": 0, "ctranslate2": 0}
    for kind in (TorchEngine, automatic.CTranslate2Engine):

        def counted(self, request, *, search=kind.search, **options):
            counts[self.name] += len(request.sources)
            return search(self, request, **options)

        monkeypatch.setattr(kind, "search", counted)
    return counts


def test_it_is_the_default_and_takes_ctranslate2(mine, words):
    chosen, ours = qkv.load(mine, device="cpu"), qkv.load(mine, device="cpu", engine="torch")
    assert chosen.engine.name == "ctranslate2"
    assert chosen.engine.note == "engine ctranslate2 float32"
    assert not chosen.engine.exact
    assert ours.engine.note == ""
    assert chosen.translate(words) == ours.translate(words)
    pairs = [(word, word) for word in words]
    for found, expected in zip(chosen.score(pairs), ours.score(pairs), strict=True):
        assert found.token_log_probabilities == pytest.approx(expected.token_log_probabilities, abs=1e-3)


def lose_the_package(mine, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    return "CTranslate2 is not installed: pip install 'qkv[ctranslate2]'"


def take_no_files(mine, monkeypatch):
    (mine / "engines").write_text("in the way")
    return "engines: cannot be written"


def disagree(mine, monkeypatch):
    monkeypatch.setitem(ctranslate2_cache.TOLERANCES, "float32", -1e6)
    return "CTranslate2 disagrees with torch on this model"


def lack_the_precision(mine, monkeypatch):
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: {"int8"})
    return "CTranslate2 cannot compute in float32 here"


def refuse_the_model(mine, monkeypatch):
    monkeypatch.setattr(ctranslate2_cache, "supported_config", lambda model: (_ for _ in ()).throw(RuntimeError("ill")))
    return "CTranslate2 failed: RuntimeError ill"


@pytest.mark.parametrize(
    "obstacle",
    [lose_the_package, take_no_files, disagree, lack_the_precision, refuse_the_model],
    ids=lambda f: f.__name__,
)
def test_torch_does_it_where_ctranslate2_cannot(mine, words, monkeypatch, obstacle):
    reason = obstacle(mine, monkeypatch)
    chosen = qkv.load(mine, device="cpu")
    assert isinstance(chosen.engine, TorchEngine)
    assert chosen.engine.note.startswith("engine torch float32: ")
    assert reason in chosen.engine.note
    assert "\n" not in chosen.engine.note
    assert chosen.translate(words) == qkv.load(mine, device="cpu", engine="torch").translate(words)


def test_another_architecture(recipe, words):
    made = qkv.train(
        recipe("gru", model={"architecture": "gru", "preset": None}, training={"steps": 2}), progress=False
    )
    chosen = qkv.load(made.path)
    assert (
        chosen.engine.note
        == "engine torch float32: CTranslate2 runs Transformers, and this model is a RecurrentSeq2Seq"
    )
    assert not (made.path / "engines").exists()


def test_what_is_too_long_is_left_to_torch(mine, words, asked):
    chosen, expected = qkv.load(mine, device="cpu"), qkv.load(mine, device="cpu", engine="torch").translate(words)
    pairs = [(word, word) for word in words]
    scores = chosen.score(pairs)
    chosen.engine._fast.longest = 4
    asked.update(torch=0, ctranslate2=0)
    assert chosen.translate(words) == expected
    long = sum(len(ids) > 4 for ids in chosen.encode(words, "source"))
    assert 0 < long < len(words)
    assert asked == {"torch": long, "ctranslate2": len(words) - long}
    for found, before in zip(chosen.score(pairs), scores, strict=True):
        assert found.token_log_probabilities == pytest.approx(before.token_log_probabilities, abs=1e-3)


def test_a_prefix_is_left_to_torch(mine, words, asked):
    chosen = qkv.load(mine, device="cpu")
    sources, [prefix] = chosen.encode(words, "source"), chosen.tokenizers.target.encode(["g"])
    asked.update(torch=0, ctranslate2=0)
    for [best] in chosen.search(sources, prefixes=[prefix] * len(words)):
        assert best.tokens[: len(prefix)] == prefix
    assert asked == {"torch": len(words), "ctranslate2": 0}
    chosen.search(sources, prefixes=[[]] * len(words))
    assert asked["ctranslate2"] == len(words)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_who_changes_the_model_sees_what_comes_of_it(mine, words, asked, precision):
    chosen, calls = qkv.load(mine, device="cpu", precision=precision), []
    asked.update(torch=0, ctranslate2=0)
    before = chosen.translate(words)
    assert asked["torch"] == 0
    hook = chosen.model.decoder.layers[0].attention.output.register_forward_pre_hook(lambda *_: calls.append(1))
    chosen.translate(words)
    assert asked["torch"] == len(words)
    assert calls or precision == "int8"
    hook.remove()
    assert chosen.translate(words) == before
    assert asked["torch"] == len(words)
    for _ in range(2):
        with torch.no_grad():
            chosen.model.output.weight.mul_(-1.0)
        engine = TorchEngine(chosen.model, chosen.tokenizers, precision=precision)
        fresh = qkv.Translator(chosen.model, chosen.tokenizers, options=chosen.options, engine=engine)
        assert chosen.translate(words) == fresh.translate(words)
    assert asked["ctranslate2"] == 2 * len(words)


def test_the_command_line_says_which(mine, tmp_path, capsys, monkeypatch):
    (tmp_path / "sources.txt").write_text("dad\ncab\n")
    verb = ["translate", str(mine), "--device", "cpu", "--input", str(tmp_path / "sources.txt")]
    assert main(verb) == 0
    said = capsys.readouterr()
    assert said.err == "engine ctranslate2 float32\n"
    assert said.out == "dad\ncab\n"
    assert main([*verb, "--engine", "torch"]) == 0
    assert capsys.readouterr() == (said.out, "")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert main(verb) == 0
    assert (
        capsys.readouterr().err
        == "engine torch float32: CTranslate2 is not installed: pip install 'qkv[ctranslate2]'\n"
    )


def test_every_engine_says_its_precisions():
    for name in ENGINES:
        assert set(ENGINES[name].precisions) <= set(PRECISIONS), name
