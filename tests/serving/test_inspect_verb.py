"""`qkv inspect`: it serves until it is interrupted, and what it cannot do it says in one line."""

import http.client
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import qkv.translator
from qkv.cli.main import main
from qkv.cli.verbs import inspect as verb

QKV = Path(sys.executable).with_name("qkv")

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


def test_it_serves_until_it_is_interrupted(run):
    command = [QKV, "inspect", run, "--compare", run, "--no-browser", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        found = re.fullmatch(r"Inspector: http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", line)
        assert found, line or process.stderr.read()
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.request("GET", "/api/models")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read().count(b'"name"') == 2
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=30)
    assert (process.returncode, rest, complaints) == (0, "", "")


@pytest.fixture
def refused(run, capsys, monkeypatch):
    """Run the verb, which must be refused with exit code 2 and in one line; what it says."""
    monkeypatch.setattr(verb, "_serve", lambda *_: pytest.fail("it serves"))

    def refused(*arguments):
        assert main(["inspect", run, "--no-browser", *map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("qkv: ")

    return refused


def test_a_port_that_is_taken(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused("--port", port).startswith(f"port {port} of 127.0.0.1 cannot be used: Address already in use")


def test_a_port_an_address_or_a_second_run_that_there_is_not(refused, tmp_path):
    assert refused("--port", 70000).startswith("argument --port: a number from 1 to 65535 is needed")
    assert refused("--host", "256.1.1.1.1").startswith("--host 256.1.1.1.1: ")
    assert refused("--compare", tmp_path / "none").startswith(f"{tmp_path}/none: no such run directory")


@pytest.mark.parametrize(
    ("said", "loaded"),
    [
        ([], [None, None]),
        (["--checkpoint", "last"], ["last", "last"]),
        (["--checkpoint", "best"], ["best", "best"]),
        (["--checkpoint", "{path}"], ["{path}", None]),
        (["--checkpoint", "last", "--compare-checkpoint", "best"], ["last", "best"]),
        (["--compare-checkpoint", "{path}"], [None, "{path}"]),
    ],
)
def test_a_checkpoint_is_one_runs_unless_each_run_has_one_of_that_name(run, monkeypatch, said, loaded):
    path, asked, load = str(Path(run, "best").resolve()), [], qkv.loading.load

    def recorded(run, *, checkpoint, **options):
        [one] = [run] if isinstance(run, str) else run
        asked.append((one, checkpoint))
        return load(run, checkpoint=checkpoint, **options)

    monkeypatch.setattr("qkv.loading.load", recorded)
    monkeypatch.setattr(verb, "_serve", lambda *_: None)
    second = str(Path(run)) + "/."
    assert main(["inspect", run, "--compare", second, "--no-browser", *(word.format(path=path) for word in said)]) == 0
    first_loaded, second_loaded = (word and word.format(path=path) for word in loaded)
    assert asked == [(run, first_loaded), (second, second_loaded)]


def test_a_second_checkpoint_needs_a_second_run(refused):
    assert refused("--compare-checkpoint", "last") == "--compare-checkpoint goes with --compare RUN2\n"


def test_what_it_needs_may_not_be_installed(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused() == "the inspector needs FastAPI and uvicorn; run: pip install 'qkv[inspect]'\n"


@pytest.mark.parametrize(
    ("host", "others", "answers"), [("127.0.0.1", "evil.example", 400), ("0.0.0.0", "any.example", 200)]
)
def test_it_answers_to_its_own_names(run, monkeypatch, host, others, answers):
    from fastapi.testclient import TestClient

    served = []
    monkeypatch.setattr(verb, "_serve", lambda app, *_: served.append(app))
    assert main(["inspect", run, "--host", host, "--no-browser"]) == 0
    client = TestClient(served[0])
    assert client.get("/api/models", headers={"host": "localhost:8000"}).status_code == 200
    assert client.get("/api/models", headers={"host": others}).status_code == answers


def test_the_browser_is_opened_where_it_serves(run, monkeypatch, capsys):
    import webbrowser

    import uvicorn

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    assert main(["inspect", run]) == 0
    assert capsys.readouterr().out == f"Inspector: {opened[0]} (Ctrl-C ends it)\n"
