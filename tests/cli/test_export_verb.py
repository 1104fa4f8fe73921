"""`qkv export`: what another program gets computes what the model does, or there is no export."""

import json
import re
from pathlib import Path

import pytest
import torch

import qkv
from qkv.interchange import EXPORTS
from qkv.interchange.marian import MARIAN
from qkv.nn.architectures import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("without_shape_checks")
WORDS = ["ab", "cab", "dcba", "abba"]


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """A run whose outputs end by themselves."""
    from qkv.cli.main import main

    path = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", recipe, f"run={path}", "--quiet", "training.steps=150", "validation.every=50"]) == 0
    return path


@pytest.fixture
def installed():
    """Skip a test where the target's program is not there."""

    def installed(target):
        pytest.importorskip({"marian": "transformers"}.get(target, target))

    return installed


def run_usage(lines, word, capsys):
    """What the code that was printed prints itself, for another source."""
    code = "\n".join(line.removeprefix("    ") for line in lines[lines.index("To use it:") + 2 :])
    exec(code.replace("A man sleeps.", word), {})
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.filterwarnings("ignore")  # other libraries'
@pytest.mark.parametrize("target", EXPORTS)
def test_what_is_printed_translates_as_the_run_does(target, trained, tmp_path, ok, capsys, installed):
    installed(target)
    lines = ok("export", trained, target, "--output", tmp_path / "made", "--checkpoint", "last")
    assert lines[0] == f"Wrote {tmp_path}/made from step-00000150."
    found = re.fullmatch(r"Checked .* by at most (\S+) nats, 6 of 6 greedy outputs are the same", lines[1])
    assert float(found[1]) < 1e-4
    beam = {"ctranslate2": 5, "marian": 1}[target]
    expected = qkv.load(trained, checkpoint="last").translate(WORDS, beam=beam)
    assert [run_usage(lines, word, capsys) for word in WORDS] == expected
    assert len(set(expected)) == len(WORDS)
    stamp = json.loads((tmp_path / "made" / "export.json").read_text("utf-8"))
    assert (stamp["target"], stamp["checkpoint"], stamp["quantization"]) == (target, "step-00000150", "float32")


@pytest.mark.parametrize("quantization", ["int8", "int16", "float16", "bfloat16"])
def test_it_stores_weights_as_it_is_told(quantization, own_run, ok, installed):
    installed("ctranslate2")
    lines = ok("export", own_run, "ctranslate2", "--quantization", quantization)
    made = Path(own_run, "exports", f"ctranslate2-{quantization}")
    assert lines[0].startswith(f"Wrote {made} from ")
    ok("export", own_run, "ctranslate2")
    assert (made / "model.bin").stat().st_size < (made.parent / "ctranslate2" / "model.bin").stat().st_size


def test_it_replaces_an_export_if_it_is_told_to_and_nothing_else(run, tmp_path, ok, refused, tree, installed):
    installed("ctranslate2")
    command = ["export", run, "ctranslate2", "--output", tmp_path / "made"]
    ok(*command)
    (tmp_path / "made" / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    assert refused(*command) == (
        f"{tmp_path}/made: exists already; replace it with --overwrite, or choose another --output"
    )
    assert tree(tmp_path) == before
    ok(*command, "--overwrite")
    assert not (tmp_path / "made" / "mine.txt").exists()

    (tmp_path / "file").write_text("mine")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "mine.txt").write_text("mine")
    before = tree(tmp_path)
    assert "is no export" in refused(*command[:-1], tmp_path / "precious", "--overwrite")
    assert "exists already" in refused(*command[:-1], tmp_path / "file", "--overwrite")
    assert refused(*command[:-1], tmp_path / "file" / "made").startswith(f"{tmp_path}/file/made: cannot be written")
    assert tree(tmp_path) == before


def test_it_refuses_what_there_is_not(run, refused):
    assert refused("export", run, "marina") == "unknown export 'marina'; did you mean marian?"
    assert refused("export", run, "marian", "--quantization", "int8") == (
        "marian has no quantization 'int8'; it has float32"
    )
    assert refused("export", run, "marian", "--checkpoint", "step-1").startswith("step-1: no such checkpoint")
    assert not Path(run, "exports").exists()


def test_it_keeps_nothing_that_computes_something_else(own_run, refused, monkeypatch, tree, installed):
    installed("transformers")
    write = type(MARIAN).write

    def write_another(self, model, tokenizers, directory, quantization):
        with torch.no_grad():
            model.output.weight.mul_(1.01)
            write(self, model, tokenizers, directory, quantization)
            model.output.weight.div_(1.01)

    monkeypatch.setattr(type(MARIAN), "write", write_another)
    before = tree(own_run)
    assert refused("export", own_run, "marian").startswith("Marian disagrees with torch on this model (")
    assert tree(own_run) == before


@pytest.mark.parametrize(("target", "library"), [("marian", "transformers"), ("ctranslate2", "ctranslate2")])
def test_what_it_needs_may_not_be_installed(target, library, own_run, refused, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    assert "is not installed: pip install 'qkv[" in refused("export", own_run, target)
    assert not Path(own_run, "exports", target).exists()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "transformer"])
def test_what_a_program_cannot_express_is_refused_with_the_reason(architecture, recipe, tmp_path, ok, refused):
    run = tmp_path / "run"
    ok("train", recipe, f"run={run}", "--quiet", "training.steps=1", f"model.architecture={architecture}")
    kind = ARCHITECTURES[architecture].model.__name__
    assert refused("export", run, "marian") == (
        f"{run} cannot be exported: Marian is a Transformer, and this model is a {kind}"
    )
    assert refused("export", run, "ctranslate2") == (
        f"{run} cannot be exported: CTranslate2 runs Transformers, and this model is a {kind}"
    )
    assert not (run / "exports").exists()
