"""A run's model for CTranslate2: exported once, checked, and made anew when it is not what it should be."""

import json
import sys

import pytest
import torch

import qkv
from qkv.cli.main import main
from qkv.decoding.engines import ctranslate2_cache
from qkv.decoding.engines.ctranslate2_cache import check_scores, check_search, fingerprint_of, is_intact, open_engine
from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.decoding.engines.ctranslate2_model import export_ctranslate2
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.errors import UserError
from qkv.files import point, write_text
from qkv.run.checkpoint import TrainingState, save_checkpoint
from qkv.run.directory import Run

pytest.importorskip("ctranslate2")

TEXTS = ["a man rides a bicycle", "", "two women and a dog", "the dog sees the sun", "a"]


@pytest.fixture
def run(tmp_path, joint_path, joint, make_model):
    """A run directory as training leaves it, with one checkpoint."""
    run = Run(tmp_path / "run")
    write_text(run.config_path, "decoding: {beam: 2, length_penalty: 0.5}\n")
    run.tokenizer_path.symlink_to(joint_path)
    save(run, make_model(joint), step=10)
    point(run.best_path, run.checkpoint_path(10))
    return run


def save(run, model, step):
    save_checkpoint(run.checkpoint_path(step), model, model.config, "transformer", TrainingState(step=step))


@pytest.fixture
def exports(monkeypatch):
    """A list that grows by one whenever a model is exported."""
    made, original = [], ctranslate2_cache.specification

    def counted(*arguments):
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(ctranslate2_cache, "specification", counted)
    return made


def directories(run):
    return sorted(path.name for path in (run.path / "engines").iterdir())


def load(run, **options):
    return qkv.load(run.path, device="cpu", engine="ctranslate2", **options)


class TestKeeping:
    def test_translates_and_scores_as_torch_does(self, run):
        torch_engine, other = qkv.load(run.path, device="cpu"), load(run)
        assert other.translate(TEXTS, beam=1) == torch_engine.translate(TEXTS, beam=1)
        assert other.translate(TEXTS) == torch_engine.translate(TEXTS)
        pairs = [(text, "ein Mann") for text in TEXTS if text]
        for ours, theirs in zip(other.score(pairs), torch_engine.score(pairs), strict=True):
            assert ours.tokens == theirs.tokens
            assert ours.token_log_probabilities == pytest.approx(theirs.token_log_probabilities, abs=1e-3)

    def test_is_exported_once(self, run, exports):
        first = load(run).translate(TEXTS)
        assert directories(run) == ["ctranslate2-step-00000010-float32"]
        assert load(run).translate(TEXTS) == first
        assert len(exports) == 1

    def test_the_recipe_may_say_so(self, run):
        write_text(run.config_path, "decoding: {beam: 2, engine: ctranslate2}\n")
        assert isinstance(qkv.load(run.path, device="cpu").engine, CTranslate2Engine)
        assert isinstance(qkv.load(run.path, device="cpu", engine="torch").engine, TorchEngine)

    def test_other_weights_under_the_same_name(self, run, joint, make_model, exports):
        before = load(run).translate(TEXTS)
        save(run, make_model(joint, seed=1), step=10)
        assert load(run).translate(TEXTS) == qkv.load(run.path, device="cpu").translate(TEXTS) != before
        assert len(exports) == 2

    @pytest.mark.parametrize("name", ["model.bin", "config.json", "shared_vocabulary.json", "engine.json"])
    def test_a_damaged_file(self, run, exports, name):
        before = load(run).translate(TEXTS)
        path = run.path / "engines" / "ctranslate2-step-00000010-float32" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert load(run).translate(TEXTS) == before
        assert len(exports) == 2
        load(run)
        assert len(exports) == 2

    @pytest.mark.parametrize("name", ["model.bin", "engine.json"])
    def test_a_missing_file(self, run, exports, name):
        before = load(run).translate(TEXTS)
        (run.path / "engines" / "ctranslate2-step-00000010-float32" / name).unlink()
        assert load(run).translate(TEXTS) == before
        assert len(exports) == 2

    def test_goes_with_its_checkpoint(self, run, joint, make_model):
        load(run)
        save(run, make_model(joint, seed=1), step=20)
        load(run, checkpoint="last")
        assert directories(run) == ["ctranslate2-step-00000010-float32", "ctranslate2-step-00000020-float32"]
        save(run, make_model(joint, seed=2), step=30)
        run.checkpoint_path(20).rename(run.path / "elsewhere")
        load(run, checkpoint="last")
        assert directories(run) == ["ctranslate2-step-00000010-float32", "ctranslate2-step-00000030-float32"]

    def test_a_run_that_takes_no_files(self, run, exports):
        (run.path / "engines").write_text("in the way")
        assert load(run).translate(TEXTS) == qkv.load(run.path, device="cpu").translate(TEXTS)
        assert len(exports) == 1

    def test_int8_lies_beside_float32(self, run, joint, monkeypatch):
        model, checkpoint = qkv.load(run.path, device="cpu").model, run.checkpoint_path(10)
        with monkeypatch.context() as stricter:
            stricter.setitem(ctranslate2_cache._TOLERANCE, "int8", -1.0)  # how good 8 bits are depends on the processor
            with pytest.raises(UserError, match="CTranslate2 disagrees"):
                open_engine(run, checkpoint, model, joint, precision="int8")
        assert directories(run) == []
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.3)
        for precision in ("float32", "int8"):
            open_engine(run, checkpoint, model, joint, precision=precision)
        assert directories(run) == ["ctranslate2-step-00000010-float32", "ctranslate2-step-00000010-int8"]

    def test_on_the_command_line(self, run, tmp_path, capsys):
        (tmp_path / "sources.txt").write_text("\n".join(TEXTS) + "\n")
        outputs = []
        for engine in ("torch", "ctranslate2"):
            verb = ["translate", str(run.path), "--input", str(tmp_path / "sources.txt"), "--engine", engine]
            assert main([*verb, "--n-best", "2"]) == 0
            outputs.append(capsys.readouterr().out.split("\n"))
        ours, theirs = ([line.split("\t") for line in lines] for lines in outputs)
        assert [line[::2] for line in ours] == [line[::2] for line in theirs]
        assert main([*verb[:-1], "onnx"]) == 2
        assert "unknown engine 'onnx': use torch or ctranslate2" in capsys.readouterr().err

    def test_the_package_is_missing(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "ctranslate2", None)
        with pytest.raises(UserError, match=r"not installed: pip install 'qkv\[ctranslate2\]'"):
            load(run)

    def test_the_users_mistakes(self, run, joint):
        with pytest.raises(UserError, match="unknown engine 'onnx': use torch or ctranslate2"):
            qkv.load(run.path, device="cpu", engine="onnx")
        with pytest.raises(UserError, match="no precision 'int4'; it has float32, bf16, fp16, int8"):
            open_engine(run, run.checkpoint_path(10), load(run).model, joint, precision="int4")

    def test_a_shortlist_is_torchs(self, run, tmp_path, capsys):
        with pytest.raises(UserError, match="engine ctranslate2 has no shortlist"):
            load(run, shortlist=5)
        source = tmp_path / "sources.txt"
        source.write_text("a dog\n")
        assert (
            main(["translate", str(run.path), "--input", str(source), "--engine", "ctranslate2", "--shortlist=5"]) == 2
        )
        assert capsys.readouterr().err.startswith("qkv: engine ctranslate2 has no shortlist: leave that out")

    def test_a_recipe_that_asks_for_a_shortlist(self, run):
        write_text(run.config_path, "decoding: {engine: ctranslate2, shortlist: 5}\n")
        with pytest.raises(UserError, match="engine ctranslate2 has no shortlist"):
            qkv.load(run.path, device="cpu")
        assert isinstance(load(run).engine, CTranslate2Engine), "asked for by name, it goes without"


class TestChecking:
    """A model that was exported wrongly is not used."""

    @pytest.fixture
    def opened(self, tmp_path, joint):
        def export(model):
            return CTranslate2Engine(export_ctranslate2(model, joint, tmp_path / "exported"), joint, longest=4096)

        return export

    def test_its_own_weights_pass(self, opened, joint, make_model):
        model = make_model(joint)
        check_scores(opened(model), model, joint, 1e-3)
        check_search(opened(model), model, joint, 1e-3)

    def test_other_weights_do_not(self, opened, joint, make_model):
        engine, model = opened(make_model(joint, seed=1)), make_model(joint)
        with pytest.raises(UserError, match=r"disagrees with torch on this model \(.* nats a token\)"):
            check_scores(engine, model, joint, 1e-3)
        with pytest.raises(UserError, match="search disagrees with torch's"):
            check_search(engine, model, joint, 1e-3)

    def test_not_a_number_does_not(self, opened, joint, make_model):
        model = make_model(joint)
        engine = opened(model)
        engine.score = lambda sources, targets: [[float("nan")] * len(target) for target in targets]
        with pytest.raises(UserError, match=r"\(nan nats a token\)"):
            check_scores(engine, model, joint, 1e-3)

    def test_nothing_is_kept_of_one_that_fails(self, run, monkeypatch):
        monkeypatch.setitem(ctranslate2_cache._TOLERANCE, "float32", -1e6)
        with pytest.raises(UserError, match="use engine torch"):
            load(run)
        assert directories(run) == []


class TestFingerprint:
    def test_changes_with_weights_options_and_vocabulary(self, joint, separate, make_model):
        model = make_model(joint)
        prints = {fingerprint_of(model, joint), fingerprint_of(make_model(joint, seed=1), joint)}
        prints |= {fingerprint_of(make_model(joint, num_heads=4), joint), fingerprint_of(model, separate)}
        assert len(prints) == 4
        assert fingerprint_of(make_model(joint), joint) in prints

    def test_one_changed_weight_is_enough(self, joint, make_model):
        model = make_model(joint)
        before = fingerprint_of(model, joint)
        with torch.no_grad():
            model.output.weight[-1, -1] += 1e-3
        assert fingerprint_of(model, joint) != before

    def test_a_stamp_of_another_format_is_not_trusted(self, run, joint, make_model):
        load(run)
        path = run.path / "engines" / "ctranslate2-step-00000010-float32"
        fingerprint = fingerprint_of(make_model(joint), joint)
        assert is_intact(path, fingerprint)
        stamp = json.loads((path / "engine.json").read_text())
        (path / "engine.json").write_text(json.dumps(stamp | {"format": 0}))
        assert not is_intact(path, fingerprint)
