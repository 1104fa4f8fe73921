"""`qkv average`."""

import shutil
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qkv
from qkv.cli.main import main
from qkv.run.checkpoint import averaged_checkpoints
from qkv.run.directory import Run
from qkv.run.lock import locked


def test_average_makes_a_checkpoint(own_run, typed, ok, refused):
    (name,) = ok("average", own_run, "--last", 2)
    assert Path(name) == Path(own_run, "checkpoints", "averaged-00000008")
    assert Path(own_run, "best").resolve() != Path(name)
    typed(b"ab\n")
    assert ok("translate", own_run, "--checkpoint", "averaged-00000008") == qkv.load(
        own_run, checkpoint=name
    ).translate(["ab"])
    assert averaged_checkpoints(Path(name)) == ["step-00000006", "step-00000008"]
    assert ok("average", own_run, "--last", 3, "--use") == [name]
    assert Path(own_run, "best").resolve() == Path(name)
    assert ok("info", own_run)[-1].split() == ["in", "use", "averaged-00000008"]
    assert refused("average", own_run, "--last", 1).startswith("averaging takes at least 2 checkpoints")


@given(kept=st.integers(1, 4), last=st.integers(2, 7))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_says_how_many_there_were(run, tmp_path_factory, capsys, kept, last):
    """As many as asked for, or all and a word of it; one alone is no average."""
    path = tmp_path_factory.mktemp("average") / "own"
    shutil.copytree(run, path, symlinks=True)
    for step in (1, 2, 3):
        shutil.copytree(Run(run).checkpoints()[0], Run(path).checkpoint_path(step), dirs_exist_ok=True)
    for checkpoint in Run(path).checkpoints()[kept:]:
        shutil.rmtree(checkpoint)
    names = [checkpoint.name for checkpoint in Run(path).checkpoints()]
    code, (out, err) = main(["average", str(path), "--last", str(last)]), capsys.readouterr()
    if kept == 1:
        assert (code, out) == (2, "")
        assert err == f"qkv: {path}: averaging takes at least 2 checkpoints, and it has 1\n"
        assert not list(Run(path).checkpoints_path.glob("averaged-*"))
        return
    assert code == 0
    assert averaged_checkpoints(Path(out.rstrip("\n"))) == names[-last:]
    few = f"qkv: averaged {kept} checkpoints, all that {path} has, of {last} asked for\n"
    assert err == (few if kept < last else "")


def test_a_run_that_is_being_trained_is_not_averaged(own_run, refused):
    with locked(Run(own_run)):
        assert "is training this run" in refused("average", own_run)
    assert not list(Path(own_run, "checkpoints").glob("averaged-*"))
