"""Standard output and error: what goes wrong there, or anywhere, is told in one line or not at all."""

import io
import os
import sys

from qkv.cli.main import main
from qkv.errors import UserError


def test_a_failing_disk_is_no_traceback(run, capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["info", run]) == 2
    assert capsys.readouterr().err == "qkv: No space left on device\n"


def test_a_reader_that_has_had_enough_is_no_fault_but_not_all_was_done(run, capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["info", run]) == 141
    assert capsys.readouterr().err == ""


def test_an_interruption_is_no_traceback(run, capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("qkv.run.directory.Run.open", interrupted)
    assert main(["info", run]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_message_takes_one_line_whatever_it_holds(monkeypatch, refused):
    def fails(path):
        raise UserError("one\ntwo")

    monkeypatch.setattr("qkv.run.directory.Run.open", fails)
    assert refused("info", "x") == "one two"


def test_output_is_utf8_whatever_the_locale(run, monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, "ascii"))
    assert main(["info", run]) == 0
    assert "läuft" in stream.getvalue().decode("utf-8")
