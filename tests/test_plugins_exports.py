"""A target of another package is exported to like qkv's own, and held to the same: it computes what the model does."""

import json
from pathlib import Path

import pytest

from qkv.experiment.experiment import train

pytestmark = pytest.mark.usefixtures("without_shape_checks")

TOY = """
from copy import deepcopy

import torch

from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.errors import UserError
from qkv.interchange.target import Target

class Toy(Target):
    title = "Toy"
    usage = "toy.load(path)"

    def refuse(self, model):
        if len(model.encoder.layers) > 1:
            raise UserError("Toy has one layer")

    def write(self, model, tokenizers, directory, quantization):
        torch.save(model.state_dict(), directory / "toy.pt")

    def read(self, model, tokenizers, directory, quantization):
        model = deepcopy(model)
        model.load_state_dict(torch.load(directory / "toy.pt"))
        return TorchEngine(model, tokenizers)

class Forgetful(Toy):
    title = "Forgetful"

    def write(self, model, tokenizers, directory, quantization):
        weights = model.state_dict()
        torch.save(weights | {"decoder.layers.0.feed_forward.wide.weight": torch.zeros(32, 16)}, directory / "toy.pt")

TOY, FORGETFUL = Toy(), Forgetful()
"""


@pytest.fixture
def qkv(other_package):
    """Run a command where another package has targets."""
    return other_package({"toy": TOY}, "qkv.exports", {"toy": "toy:TOY", "forgetful": "toy:FORGETFUL"})


@pytest.fixture
def trained(recipe):
    """Train a run of so many encoder layers; its path."""

    def trained(layers=1):
        model = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": layers, "decoder_layers": 1}
        return train(recipe(model=model, training={"steps": 2}), progress=False).path

    return trained


def test_it_is_exported_to(qkv, trained, tmp_path):
    ran = qkv("export", trained(), "toy", "--output", tmp_path / "made")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "differ by at most 0 nats, 6 of 6 greedy outputs are the same" in ran.stdout
    assert f"    path = '{tmp_path}/made'\n    toy.load(path)\n" in ran.stdout
    assert {path.name for path in Path(tmp_path, "made").iterdir()} == {"toy.pt", "export.json"}
    assert json.loads(Path(tmp_path, "made", "export.json").read_text())["target"] == "toy"
    assert "ctranslate2, marian, toy, forgetful" in " ".join(qkv("export", "--help").stdout.split())


def test_what_it_cannot_express_is_refused(qkv, trained, tmp_path):
    run = trained(layers=2)
    ran = qkv("export", run, "toy", "--output", tmp_path / "made")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"qkv: {run} cannot be exported: Toy has one layer\n"


def test_what_computes_something_else_is_refused(qkv, trained, tmp_path):
    ran = qkv("export", trained(), "forgetful", "--output", tmp_path / "made")
    assert ran.returncode == 2
    assert ran.stderr.startswith("qkv: Forgetful disagrees with torch on this model (")
    assert not (tmp_path / "made").exists()
