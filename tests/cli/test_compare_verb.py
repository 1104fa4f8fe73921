"""`qkv compare`."""

import json
import re

from qkv.cli.main import main


def test_compare_trains_the_variants_and_prints_what_it_found(recipe, tmp_path, ok, monkeypatch):
    monkeypatch.setattr("qkv.comparison.measure.LENGTHS", (4,))
    arguments = ["compare", recipe, "--vary", "model.norm_position=pre,post", "--output", tmp_path / "c", "--quiet"]
    lines = ok(*arguments, "--metrics", "per", "--beam", 1, "training.steps=4")
    assert re.search(r"^\| variant \| parameters \| per \|", "\n".join(lines), flags=re.MULTILINE)
    assert {line.split(" ")[1] for line in lines if line.startswith(("| pre", "| post"))} == {"pre", "post"}
    assert lines[-1] == f"The report is {tmp_path}/c/compare.html"
    found = json.loads((tmp_path / "c" / "comparison.json").read_text("utf-8"))
    assert [row["measurement"]["steps"] for row in found["rows"]] == [4, 4]
    assert found["command"].startswith(f"qkv compare {recipe} training.steps=4 --vary model.norm_position=pre,post")


def test_compare_refuses_what_it_cannot_do(recipe, tmp_path, refused):
    output = ["--output", tmp_path / "c"]
    assert refused("compare", recipe).startswith("the following arguments are required: --vary")
    assert refused("compare", recipe, *output, "--vary", "model.norm").startswith("--vary 'model.norm': write KEY=")
    assert "did you mean model.d_model?" in refused("compare", recipe, *output, "--vary", "model.d_modl=1,2")
    assert "training.budget" in refused("compare", recipe, *output, "--vary", "seed=1,2", "--budget", "soon")
    assert refused("compare", recipe, *output, "--vary", "seed=1,2", "--metrics", "blue").startswith("unknown metric")
    assert not (tmp_path / "c").exists()


def test_compare_says_that_no_variant_could_be_trained(recipe, tmp_path, capsys):
    arguments = ["compare", recipe, "--vary", "seed=1,2", "--quiet", "--output", str(tmp_path / "c")]
    assert main([*arguments, "training.learning_rate=1e30", "training.clip_norm=null"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("qkv: no variant could be trained: the loss is not a number at step")
    assert "failed: the loss is not a number" in captured.out
