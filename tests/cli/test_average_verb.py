"""`qkv average`."""

from pathlib import Path

import qkv
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
    assert ok("average", own_run, "--use") == [name]
    assert Path(own_run, "best").resolve() == Path(name)
    assert ok("info", own_run)[-1].split() == ["in", "use", "averaged-00000008"]
    assert refused("average", own_run, "--last", 1).startswith("averaging takes at least 2 checkpoints")


def test_a_run_that_is_being_trained_is_not_averaged(own_run, refused):
    with locked(Run(own_run)):
        assert "is training this run" in refused("average", own_run)
    assert not list(Path(own_run, "checkpoints").glob("averaged-*"))
