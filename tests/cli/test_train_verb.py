"""`qkv train`."""

from pathlib import Path

import torch

import qkv
from qkv.cli.main import main
from qkv.training.trainer import train


def test_train_says_what_it_does_on_standard_error(recipe, tmp_path, capsys):
    assert main(["train", recipe, f"run={tmp_path}/run", "training.steps=2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "parameters" in captured.err
    assert "validation loss" in captured.err
    assert f"qkv translate {tmp_path}/run" in captured.err


def test_train_takes_overrides_before_and_after_options(recipe, tmp_path, ok):
    assert ok("train", recipe, f"run={tmp_path}/run", "--quiet", "steps=2", "seed=5") == []
    config = qkv.config.loading.load_config(tmp_path / "run" / "config.yaml")
    assert (config.training.steps, config.seed) == (2, 5)


def test_train_resumes(own_run, recipe, ok):
    assert ok("train", "--resume", own_run, "--quiet", "steps=10") == []
    assert ok("train", "--quiet", "--resume", recipe, f"run={own_run}", "steps=12") == []
    assert Path(own_run, "best").exists()
    assert any("12 steps" in line for line in ok("info", own_run))


def test_train_refuses_faulty_input_in_one_line_and_writes_nothing(recipe, tmp_path, refused, faulty, tree):
    short = faulty(tmp_path, "short.txt", b"a\nb\n")
    long = faulty(tmp_path, "long.txt", b"a\nb\nc\n")
    latin = faulty(tmp_path, "latin.tsv", b"a\tb\na\tb\n\xe4\tb\n")
    empty = faulty(tmp_path, "empty.tsv", b"")
    narrow = faulty(tmp_path, "narrow.tsv", b"a\tb\na b\n")
    yaml = faulty(tmp_path, "broken.yaml", b"run: x\ntraining: {steps: 5\n")
    (tmp_path / "file").write_bytes(b"in the way")
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "precious.txt").write_text("mine")
    before = tree(tmp_path)

    def said(*overrides, of=recipe):
        return refused("train", of, f"run={tmp_path}/run", *overrides)

    train = "data.train."
    for part in ("train", "validation", "test"):
        assert said(f"data.{part}={{source: {short}, target: {long}}}") == (
            f"{short} has 2 lines but {long} has 3; aligned files need the same number of lines"
        )
        assert said(f"data.{part}=nowhere.tsv").endswith("nowhere.tsv: no such file")
        assert said(f"data.{part}={latin}").startswith(f"{latin}:3: not valid UTF-8")
        assert said(f"data.{part}={empty}") == f"{empty}: no pairs in it; the corpus is empty"
        assert said(f"data.{part}={narrow}").startswith(f"{narrow}:2: 2 tab-separated columns needed")
    assert said(f"{train}source={short}") == (
        f"{recipe}: data.train: pairs: give 'path' (one file), or both 'source' and 'target' (two aligned files)"
    )
    assert said("data.train=null").startswith("data.train is not set: say data.train=FILE.tsv")
    assert said("training.stepz=5") == f"{recipe}: unknown key training.stepz; did you mean training.steps?"
    assert said("model.d_modl=5") == f"{recipe}: unknown key model.d_modl; did you mean model.d_model?"
    assert said("training.steps=many") == f"{recipe}: training.steps: must be an integer, got 'many'"
    assert said("model.d_model=wide") == f"{recipe}: model.d_model: must be an integer, got 'wide'"
    assert said("budget=soon").startswith(f"{recipe}: training.budget: a duration is written like")
    assert said("tokenizer.joint=false").startswith(f"{recipe}: model.tie is all, which needs one vocabulary")
    assert said("device=gpu").startswith("unknown device 'gpu'")
    assert said("stray").startswith("'stray': an override is written key=value")
    assert said(f"run={existing}").startswith(f"{existing}: exists already; go on with `qkv train --resume {existing}`")
    assert said(f"run={tmp_path}/file").startswith(f"{tmp_path}/file: exists already")
    assert said(f"run={tmp_path}/file/run").startswith(f"{tmp_path}/file/run: cannot be written")
    assert said(of=yaml).startswith(f"{yaml}:3: not valid YAML")
    assert said(of=tmp_path / "no.yaml") == f"{tmp_path}/no.yaml: no such recipe"
    assert said(of=existing).startswith(f"{existing}: a directory, not a recipe; to go on with a run: qkv train --res")
    assert said("--resume", of=existing).startswith(f"{existing}: not a run directory")
    assert said("--resume").startswith(f"{tmp_path}/run: no such run directory")
    assert tree(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_train_refuses_to_write_over_a_run(own_run, recipe, refused, tree):
    before = tree(own_run)
    assert "exists already" in refused("train", recipe, f"run={own_run}")
    assert tree(own_run) == before


def test_only_the_command_changes_its_process(recipe, tmp_path, ok, monkeypatch):
    """A training of somebody else's program leaves threads, chance and memory as they were."""
    changed = []
    monkeypatch.setattr("qkv.devices.keep_freed_memory", lambda: changed.append("memory"))
    threads, chance = torch.get_num_threads(), torch.get_rng_state()
    train(recipe, [f"run={tmp_path}/a", "steps=2", f"threads={threads + 1}"], progress=False)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), chance)
    assert changed == []
    ok("train", recipe, f"run={tmp_path}/b", "--quiet", "steps=2")
    assert changed == ["memory"]
