"""`qkv info`."""

import re
import shutil
from pathlib import Path

import pytest


def test_info_describes_a_run(run, translator, ok):
    text = "\n".join(ok("info", run))
    parameters = sum(parameter.numel() for parameter in translator.model.parameters())
    assert text.startswith(f"run          {run}\n")
    assert f"both: char, {translator.tokenizers.source.vocab_size} tokens" in text
    assert f"transformer, {parameters:,} parameters" in text
    assert "d_model 16, num_heads 2" in text
    assert "8 steps" in text
    assert re.search(r"best +loss \d\.\d+ at step \d", text)
    assert re.search(r"checkpoints  step-00000004, step-00000006, step-00000008", text)


def test_info_of_a_run_that_has_just_begun(own_run, ok):
    shutil.rmtree(Path(own_run, "checkpoints"))
    Path(own_run, "best").unlink()
    assert ok("info", own_run)[-1] == "model        transformer, no checkpoint yet"


def test_info_of_separate_tokenizers(recipe, tmp_path, ok):
    ok("train", recipe, f"run={tmp_path}/run", "--quiet", "steps=1", "tokenizer.joint=false", "model.tie=target")
    assert re.search(
        r"tokenizer +source: char, \d+ tokens; target: char, \d+ tokens", "\n".join(ok("info", f"{tmp_path}/run"))
    )


def test_info_shows_the_books(run, ok):
    """What was read, what of it was kept, and how much of that is known."""
    sides = "; ".join(rf"(?P<{side}>\d+) {side} tokens, (?P={side}) known, 0 unknown" for side in ("source", "target"))
    for name in ("training", "validation"):
        assert any(re.fullmatch(f"{name} +10 pairs read, 10 kept; {sides}", line) for line in ok("info", run))


@pytest.mark.parametrize("damaged", ["state.json", "model.safetensors"])
def test_info_of_a_damaged_checkpoint(damaged, own_run, refused):
    (Path(own_run, "best").resolve() / damaged).write_bytes(b"{")
    assert Path(own_run).name in refused("info", own_run)
