"""The inspector on a model of random weights: what it shows is what the model does, and faults are sentences."""

import base64
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient

from qkv.decoding.options import SearchOptions
from qkv.inspection.attribution import METHODS, attribute
from qkv.inspection.shapes import shapes
from qkv.nn import Transformer, TransformerConfig
from qkv.serving.examination import Subject
from qkv.serving.inspector import create_app
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings
from qkv.translator import Translator

PAGE = Path(__file__).parents[2] / "src" / "qkv" / "serving" / "page"
SOURCE = "a man rides a bicycle"


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    lines = [SOURCE, "ein Mann fährt Rad", "two dogs run", "zwei Hunde rennen"]
    settings = TokenizerSettings(kind="bpe", vocab_size=50)
    tokenizers = Tokenizers.learn([Pair(line, line) for line in lines], tmp_path_factory.mktemp("tokenizer"), settings)
    torch.manual_seed(2)
    shape = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 2}
    model = Transformer(TransformerConfig(tokenizers.target.vocab_size, **shape, tie="none"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return Translator(model, tokenizers, options=SearchOptions(beam=3, max_length_ratio=1.0, max_length_extra=2))


@pytest.fixture(scope="module")
def client(translator):
    return TestClient(create_app([Subject("one", translator)]), base_url="http://127.0.0.1")


def examine(client, source=SOURCE, **question):
    answer = client.post("/api/examine", json={"source": source, **question})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_outputs_are_those_of_the_translator(client, translator):
    answer = examine(client, n_best=3)
    [expected] = translator.n_best([SOURCE], 3)
    assert [found["text"] for found in answer["n_best"]] == [translation.text for translation in expected]
    assert [found["score"] for found in answer["n_best"]] == pytest.approx([t.score for t in expected], rel=1e-5)
    assert sum(answer["log_probabilities"]) == pytest.approx(answer["n_best"][0]["log_probability"], rel=1e-4)


def test_maps_have_rows_that_sum_to_one_and_nothing_from_the_future(client):
    answer = examine(client)
    source, target = len(answer["source"]), len(answer["target"])
    maps = {}
    for kind, packed in answer["maps"].items():
        numbers = np.frombuffer(base64.b64decode(packed["data"]), "<u2").reshape(packed["shape"])
        maps[kind] = numbers / 65535
    assert {kind: found.shape for kind, found in maps.items()} == {
        "encoder": (1, 2, source, source),
        "decoder": (2, 2, target, target),
        "cross": (2, 2, target, source),
    }
    for found in maps.values():
        assert np.allclose(found.sum(-1), 1, atol=1e-3)
    assert not np.triu(maps["decoder"], 1).any()


def test_a_forced_prefix_is_what_the_output_begins_with(client):
    candidate = examine(client)["candidates"][0][1]
    answer = examine(client, prefix=[candidate["token"]])
    assert answer["target"][0] == {"token": candidate["token"], "piece": candidate["piece"]}
    assert examine(client, prefix="zwei")["n_best"][0]["text"].startswith("zwei")


def test_a_head_that_is_off_is_on_again_afterwards(client):
    before = examine(client)
    off = [{"kind": "cross", "layer": layer, "head": head} for layer in (1, 2) for head in (1, 2)]
    without = examine(client, off=off)
    assert without["log_probabilities"] != before["log_probabilities"]
    assert without["intact"]["text"] == before["n_best"][0]["text"]
    assert examine(client) == before


def test_the_tree_leads_to_the_output(client):
    answer = examine(client)
    tree = answer["tree"]
    assert [tree["candidates"][index]["token"] for index in tree["path"]] == [t["token"] for t in answer["target"]]


def test_a_prefix_comes_back_as_tokens_and_special_tokens_are_marked(client, translator):
    tokenizer = translator.tokenizers.target
    answer = examine(client, prefix="zwei")
    assert [one["token"] for one in answer["prefix"]] == tokenizer.encode(["zwei"])[0]
    assert [one["piece"] for one in answer["prefix"]] == tokenizer.pieces(tokenizer.encode(["zwei"])[0])
    for one in answer["candidates"][0] + answer["tree"]["candidates"]:
        assert one["special"] == (one["token"] in (tokenizer.bos, tokenizer.eos, tokenizer.pad))


@pytest.mark.parametrize("method", METHODS)
def test_attribution_is_that_of_the_library(client, translator, method):
    answer = client.post("/api/attribution", json={"source": "two dogs", "method": method}).json()
    expected = attribute(translator, "two dogs", method=method)
    assert [one["piece"] for one in answer["source"]] == expected.source_tokens
    assert [one["piece"] for one in answer["target"]] == expected.target_tokens
    assert np.allclose(answer["scores"], expected.scores, atol=1e-6)


def test_attribution_follows_the_output_that_is_shown_and_the_heads_that_are_on(client):
    question = {"source": SOURCE, "n_best": 3, "show": 2, "prefix": "zwei"}
    shown = examine(client, n_best=3, show=2, prefix="zwei")
    answer = client.post("/api/attribution", json=question).json()
    assert answer["target"] == shown["target"]
    off = [{"kind": "cross", "layer": layer, "head": head} for layer in (1, 2) for head in (1, 2)]
    without = client.post("/api/attribution", json={**question, "off": off}).json()
    assert not np.any(without["scores"]), "without cross-attention, the decoder knows nothing of the source"


def test_the_shapes_are_those_of_the_library(client, translator):
    answer = client.post("/api/shapes", json={"source": SOURCE}).json()
    expected = shapes(translator, SOURCE).folded()
    assert [step["what"] for step in answer["steps"]] == [step.what for step in expected.steps]
    assert [tuple(step["shape"]) for step in answer["steps"]] == [step.shape for step in expected.steps]
    assert answer["parameters"] == expected.parameters
    assert answer["target_tokens"] == expected.target_tokens


def test_models_are_described(client):
    [described] = client.get("/api/models").json()
    assert described["name"] == "one"
    assert described["heads"] == {"encoder": [2], "decoder": [2, 2], "cross": [2, 2]}


@pytest.mark.parametrize(
    ("question", "status", "complaint"),
    [
        ({"source": "  "}, 400, "the source is blank"),
        ({"source": "x" * 4001}, 422, "source: String should have at most 4000 characters"),
        ({"source": "man zwei " * 400}, 400, "the source has "),
        ({"source": 3}, 422, "source: Input should be a valid string"),
        ({}, 422, "source: Field required"),
        ({"source": "a", "beam": 0}, 422, "beam: "),
        ({"source": "a", "beam": 21}, 422, "beam: "),
        ({"source": "a", "n_best": 21}, 422, "n_best: "),
        ({"source": "a", "stray": 1}, 422, "stray: Extra inputs are not permitted"),
        ({"source": "a", "model": 1}, 400, "there is no model 1"),
        ({"source": "a", "prefix": [2]}, 400, "a prefix cannot hold token 2"),
        ({"source": "a", "prefix": [10**9]}, 400, "a prefix cannot hold token 1000000000"),
        ({"source": "a", "off": [{"kind": "cross", "layer": 7, "head": 1}]}, 400, "this model has no cross layer 7"),
        ({"source": "a", "off": [{"kind": "other", "layer": 1, "head": 1}]}, 422, "off.kind: "),
        ({"source": "a", "off": [{"kind": "cross", "layer": 0, "head": 1}]}, 422, "off.layer: "),
        ({"source": "a", "off": [{"kind": "cross", "layer": 1, "head": 0}]}, 422, "off.head: "),
    ],
)
def test_what_is_refused_and_how(client, question, status, complaint):
    answer = client.post("/api/examine", json=question)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(complaint)


def test_a_request_that_is_no_json_too_large_or_for_another_host(client):
    headers = {"content-type": "application/json"}
    assert client.post("/api/examine", content=b"{", headers=headers).status_code == 422
    assert client.post("/api/examine", content=b" " * 70_000, headers=headers).status_code == 413
    assert client.get("/api/models", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("what", ["attribution", "shapes"])
@pytest.mark.parametrize(
    ("question", "status", "complaint"),
    [
        ({"source": " "}, 400, "the source is blank"),
        ({"source": "man zwei " * 400}, 400, "the source has "),
        ({"source": "a", "prefix": [2]}, 400, "a prefix cannot hold token 2"),
        ({"source": "a", "off": [{"kind": "cross", "layer": 7, "head": 1}]}, 400, "this model has no cross layer 7"),
        ({"source": "a", "model": 9}, 400, "there is no model 9"),
        ({"source": "a", "stray": 1}, 422, "stray: "),
    ],
)
def test_other_questions_are_refused_in_the_same_way(client, what, question, status, complaint):
    answer = client.post(f"/api/{what}", json=question)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(complaint)


def test_a_method_that_there_is_not(client):
    answer = client.post("/api/attribution", json={"source": "a", "method": "guess"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("unknown method 'guess'; choose from ")


def test_a_fault_of_the_server_tells_no_secrets(translator, monkeypatch, caplog):
    def fails(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr(Subject, "examine", fails)
    app = create_app([Subject("one", translator)])
    answer = TestClient(app, base_url="http://127.0.0.1").post("/api/examine", json={"source": "a"})
    assert answer.status_code == 500
    assert list(answer.json()) == ["error"]
    assert "secret" not in answer.text
    assert "secret" in caplog.text, "whoever runs the server is told"


# The page


TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def test_the_page_is_served_file_by_file(client):
    assert client.get("/").content == (PAGE / "index.html").read_bytes()
    for path in PAGE.iterdir():
        answer = client.get(f"/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].partition(";")[0] == TYPES[path.suffix[1:]]
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["nothing.js", "../ablation.py", "..%2fablation.py", "%2e%2e/report.py", "page/", "//etc/passwd"]
)
def test_nothing_else_is_served(client, path):
    answer = client.get(f"/{path}")
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_the_page_asks_for_its_own_files_alone_and_holds_no_inline_code():
    names = {path.name for path in PAGE.iterdir()}
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8")
        addresses = [found for found in re.findall(r"https?://[^\"' )]+", text) if "www.w3.org" not in found]
        assert addresses == [], path.name
        assert set(re.findall(r'(?:from|import) "\./([^"]+)"', text)) <= names
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path.name
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*src=)| style=| on\w+=", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) <= names


def test_files_are_served_while_a_model_computes(translator, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def slow(*_, **__):
        started.set()
        go_on.wait(10)
        return {}

    monkeypatch.setattr(Subject, "examine", slow)
    with TestClient(create_app([Subject("one", translator)]), base_url="http://127.0.0.1") as client:
        asking = threading.Thread(target=client.post, args=["/api/examine"], kwargs={"json": {"source": "a"}})
        asking.start()
        assert started.wait(10)
        assert client.get("/main.js").status_code == 200
        assert asking.is_alive()
        go_on.set()
        asking.join()
