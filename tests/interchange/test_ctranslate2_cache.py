"""A run's model for CTranslate2: exported once, checked, and made anew when it is not what it should be."""

import json
import sys
from dataclasses import replace

import pytest
import torch

import qkv
from qkv.cli.main import main
from qkv.decoding.engines import ctranslate2_cache
from qkv.decoding.engines.contract import Opening, title
from qkv.decoding.engines.ctranslate2_cache import fingerprint_of, is_intact, open_engine
from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.decoding.engines.ctranslate2_model import write_shortlist
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.shortlist import Shortlist
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
        torch_engine, other = qkv.load(run.path, device="cpu", engine="torch"), load(run)
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
        assert load(run).translate(TEXTS) == qkv.load(run.path, device="cpu", engine="torch").translate(TEXTS) != before
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
        assert load(run).translate(TEXTS) == qkv.load(run.path, device="cpu", engine="torch").translate(TEXTS)
        assert len(exports) == 1

    def test_int8_lies_beside_float32(self, run, joint, make_model, monkeypatch):
        opening = Opening(make_model(joint), joint, directory=run.path / "engines", checkpoint="step-00000010")
        with monkeypatch.context() as strict:
            strict.setitem(ctranslate2_cache.TOLERANCES, "int8", -1e6)
            with pytest.raises(UserError, match="CTranslate2 disagrees"):
                open_engine(replace(opening, precision="int8"))
        assert directories(run) == []
        for precision in ("float32", "int8"):
            open_engine(replace(opening, precision=precision))
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
        assert "unknown engine 'onnx'; there are: auto, torch, ctranslate2" in capsys.readouterr().err

    def test_the_package_is_missing(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "ctranslate2", None)
        with pytest.raises(UserError, match=r"not installed: pip install 'qkv\[ctranslate2\]'"):
            load(run)

    def test_the_users_mistakes(self, run, joint):
        with pytest.raises(UserError, match="unknown engine 'onnx'; there are: auto, torch, ctranslate2"):
            qkv.load(run.path, device="cpu", engine="onnx")
        with pytest.raises(UserError, match="no precision 'int4'; it has float32, bf16, fp16, int8"):
            load(run, precision="int4")


class TestShortlist:
    """CTranslate2 looks at the tokens that our own shortlist has."""

    @pytest.fixture
    def narrow(self, run, joint):
        """A shortlist of three tokens a source token, in the run's place for it."""
        vocabulary, special = joint.target.vocab_size, [joint.target.bos, joint.target.eos, joint.target.pad]
        candidates = torch.randint(4, vocabulary, (vocabulary, 3), generator=torch.Generator().manual_seed(5))
        candidates[joint.source.pad] = 30  # as learnt: nothing is seen beside padding
        shortlist = Shortlist(candidates, torch.tensor([*special, joint.target.unk, 30]))
        shortlist.save(run.shortlist_path(3))
        return shortlist

    @pytest.mark.parametrize("beam", [1, 3])
    def test_outputs_are_those_of_our_shortlist(self, run, narrow, joint, beam):
        ours, theirs = (qkv.load(run.path, device="cpu", engine=name, shortlist=3) for name in ("torch", "ctranslate2"))
        assert title(theirs.engine) == "ctranslate2 float32, with a shortlist"
        plain, differing = load(run), 0
        for text in filter(None, TEXTS):
            expected, found = (each.n_best([text], 1, beam=beam)[0][0] for each in (ours, theirs))
            assert found.tokens == expected.tokens
            allowed = joint.target.pieces(narrow.of(torch.tensor(theirs.encode([text], "source"))).tolist())
            assert set(found.tokens) <= set(allowed)
            differing += found.tokens != plain.n_best([text], 1, beam=beam)[0][0].tokens
        assert differing

    @pytest.mark.parametrize("beam", [1, 3])
    def test_one_with_every_token_changes_nothing(self, run, joint, beam):
        everything = torch.arange(joint.target.vocab_size)
        Shortlist(everything[:, None], everything).save(run.shortlist_path(1))
        narrow, plain = load(run, shortlist=1), load(run)
        assert narrow.translate(TEXTS, beam=beam) == plain.translate(TEXTS, beam=beam)

    def test_it_has_a_directory_of_its_own_and_is_made_anew_when_it_changes(self, run, narrow, exports):
        load(run), load(run, shortlist=3)
        assert directories(run) == ["ctranslate2-step-00000010-float32", "ctranslate2-step-00000010-float32-top3"]
        load(run, shortlist=3)
        assert len(exports) == 2
        Shortlist(narrow.candidates.flip(0), narrow.always).save(run.shortlist_path(3))
        load(run, shortlist=3)
        assert len(exports) == 3

    def test_the_recipe_may_ask_for_it(self, run, narrow):
        write_text(run.config_path, "decoding: {engine: ctranslate2, shortlist: 3}\n")
        assert qkv.load(run.path, device="cpu").engine.shortlist is not None
        assert load(run).engine.shortlist is not None

    def test_tokens_that_vmap_cannot_hold(self, joint, monkeypatch, tmp_path):
        """A source token's likely ones are then always there; a target token is refused."""
        names = ["", "a b", *(f"t{i}" for i in range(2, 60))]
        monkeypatch.setattr("qkv.decoding.engines.ctranslate2_model.vocabulary", lambda tokenizer: names)
        candidates = torch.full((60, 1), 7)
        candidates[0], candidates[1] = 8, 9
        write_shortlist(Shortlist(candidates, torch.tensor([2])), joint, tmp_path)
        lines = (tmp_path / "vmap.txt").read_text().split("\n")
        assert lines[:2] == ["t2\tt7", "t3\tt7"]
        assert lines[-2:] == ["\tt2 t8 t9", ""]
        candidates[5] = 1
        with pytest.raises(UserError, match="no shortlist with the token 'a b'"):
            write_shortlist(Shortlist(candidates, torch.tensor([2])), joint, tmp_path)


class TestChecking:
    """A model that was exported wrongly is not used."""

    def test_nothing_is_kept_of_one_that_fails(self, run, monkeypatch):
        monkeypatch.setitem(ctranslate2_cache.TOLERANCES, "float32", -1e6)
        with pytest.raises(UserError, match="CTranslate2 disagrees with torch on this model"):
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
