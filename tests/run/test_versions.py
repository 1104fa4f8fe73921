"""Runs that earlier versions wrote load, translate, score and go on, for ever; see docs/versioning.md.

tests/run/data holds them as they were written, with what came of them then.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import qkv
from qkv.errors import UserError
from qkv.run.directory import Run
from qkv.training.trainer import resume

DATA = Path(__file__).parent / "data"
RUNS = sorted(path.parent for path in DATA.glob("*/*/outcome.json"))


@pytest.fixture(params=RUNS, ids=lambda path: f"{path.parent.name}-{path.name}")
def old(request, tmp_path) -> tuple[Run, dict[str, Any]]:
    """A copy of a run, and what came of the run when it was written."""
    shutil.copytree(request.param, tmp_path / "run", symlinks=True)
    return Run(tmp_path / "run"), json.loads((request.param / "outcome.json").read_text())


def test_there_is_one_of_each_format():
    assert {(path.parent.name, path.name) for path in RUNS} == {
        (version, architecture)
        for version in ("unversioned", "version-1")
        for architecture in ("transformer", "lstm-attention")
    }
    kept = {path.parent.name: yaml.safe_load((path / "config.yaml").read_text()).get("version") for path in RUNS}
    assert kept == {"unversioned": None, "version-1": 1}


def test_it_translates_and_scores_as_then(old):
    run, then = old
    translator = qkv.load(run.path, device="cpu")
    assert translator.translate(then["sources"]) == then["translations"]
    scores = translator.score(list(zip(then["sources"], then["translations"], strict=True)))
    assert [score.log_probability for score in scores] == pytest.approx(then["scores"], rel=1e-4)


def test_it_goes_on_as_then(old):
    run, then = old
    more = ["training.steps=620", "validation.every=20", "training.report_every=20"]
    resume(run.path, [f"data.root={DATA}", *more], progress=False)
    resumed = {record["event"]: record["loss"] for record in run.metrics() if record["step"] == 620}
    assert resumed == pytest.approx(then["resumed"], rel=1e-3)
    assert run.config.version == 1


def test_it_does_not_go_on_with_other_files(old):
    """The oldest have no stamp of their files; the names tell."""
    run, _ = old
    with pytest.raises(UserError, match=r"^data\.train: this run was made from"):
        resume(run.path, [f"data.root={DATA}", "data.train=validation.tsv", "training.steps=620"], progress=False)


@pytest.mark.parametrize("old", [path for path in RUNS if path.parent.name != "unversioned"], indirect=True)
def test_it_does_not_go_on_with_other_data(old, tmp_path):
    run, _ = old
    for name in ("train.tsv", "validation.tsv"):
        lines = (DATA / name).read_text().splitlines()
        (tmp_path / name).write_text("\n".join(line.split("\t")[0] + "\tmo" for line in lines))
    with pytest.raises(UserError, match=r"^data\.train: this run was made from"):
        resume(run.path, [f"data.root={tmp_path}", "training.steps=620"], progress=False)


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_run_is_refused_by_its_version(old, version):
    """Whatever else it holds that is not known."""
    run, _ = old
    config = yaml.safe_load(run.config_path.read_text()) | {"version": version, "quantum": {"bits": 3}}
    run.config_path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=rf"config\.yaml: version: is {version}, of a newer qkv; this one reads"):
        qkv.load(run.path)
