"""The report: written after training, self-contained, and never in the way of a training."""

import base64
import re
from html.parser import HTMLParser

import pytest

import qkv
from qkv.cli.main import main
from qkv.errors import UserError
from qkv.experiment import report
from qkv.experiment.experiment import resume
from qkv.experiment.report import write_report
from qkv.run.directory import Run

pytestmark = pytest.mark.usefixtures("without_shape_checks")

WORDS = ["ab", "ba", "abc", "cab", "bad", "dab", "cd", "dcba", "abba", "cada"]
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    lines = [f"{word}\t{word.upper()}\n" for word in WORDS]
    (path / "train.tsv").write_text("".join(lines), "utf-8")
    (path / "validation.tsv").write_text(f"{NASTY}\tX\n{lines[0]}", "utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(data):
    def make(run, **changes):
        sections = {
            "data": {"root": str(data), "train": "train.tsv", "validation": "validation.tsv", "test": "train.tsv"},
            "tokenizer": {"kind": "char"},
            "model": {"d_model": 16, "num_heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 1},
            "training": {"steps": 6, "report_every": 2, "warmup_steps": 2},
            "validation": {"every": 3, "samples": 2, "metric": "chrf"},
            "evaluation": {"metrics": ["chrf", "exact_match"]},
            "decoding": {"engine": "torch"},
        }
        for section, values in changes.items():
            sections[section] = sections[section] | values
        return {"run": str(run), "device": "cpu", "threads": 1} | sections

    return make


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Run:
    return qkv.train(recipe(tmp_path_factory.mktemp("runs") / "first"), progress=False)


@pytest.fixture(scope="module")
def page(run) -> str:
    return run.report_path.read_text("utf-8")


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in ("path", "use"):
            assert self.open.pop() == tag


def test_training_ends_with_a_report_of_what_was_recorded(run, page):
    training = [record for record in run.metrics() if record["event"] == "train"]
    validation = [record for record in run.metrics() if record["event"] == "validation"]
    assert page.count('<svg class="chart"') == 4
    assert f"training: from {training[0]['nll']:.4g} to {training[-1]['nll']:.4g}" in page
    assert f"chrf {validation[-1]['chrf']:.2f}" in page
    assert f"loss {validation[-1]['loss']:.3f}" in page
    assert "6 steps" in page
    assert "learning_rate: 0.001" in page, "the configuration, defaults too"
    assert qkv.__version__ in page


def test_the_books_of_the_data_are_shown(page):
    rows = dict(re.findall(r"<dt>(training|validation)</dt><dd[^>]*>(.*?)</dd>", page))
    assert re.match(r"10 pairs read, 10 kept; (\d+) source tokens, \1 known, 0 unknown; ", rows["training"])
    assert re.match(r"2 pairs read, 2 kept; \d+ source tokens, \d+ known, [1-9]\d* unknown; ", rows["validation"])


def test_samples_are_shown_over_time(run, page):
    outputs = [record["samples"][1]["output"] for record in run.metrics() if record["event"] == "validation"]
    table = page[page.index("<bdi>Source: ab</bdi>") :].partition("</table>")[0]
    rows = re.findall(r'<th scope="row" dir="auto">(\d+)</th><td dir="auto">(.*?)</td>', table)
    assert [step for step, _ in rows] == ["3", "6"]
    assert [output for _, output in rows] == [output.replace("<", "&lt;").replace(">", "&gt;") for output in outputs]


def test_the_page_needs_nothing_beside_itself_and_text_is_no_markup(page):
    tags = Tags(page)
    assert tags.open == []
    assert not {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object"}
    addresses = [value for _, attributes in tags.found for name, value in attributes.items() if name in ("src", "href")]
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in addresses)
    assert NASTY not in page
    assert "&lt;img src=x" in page
    images = [attributes for tag, attributes in tags.found if tag == "img"]
    assert [image["alt"].partition(",")[0] for image in images] == ["Attention from target to source"]


def test_the_picture_shows_every_head(page):
    drawing = base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", page)[1]).decode("utf-8")
    assert set(re.findall(r"layer \d, head \d", drawing)) == {"layer 1, head 1", "layer 1, head 2"}


def test_the_test_pairs_are_measured_if_asked_for(run, tmp_path):
    page = write_report(run, evaluate=True, output=tmp_path / "page.html").read_text("utf-8")
    scores = qkv.evaluation.evaluate.evaluate(
        qkv.load(run.path), report.pair_files(run.config, "test"), ["chrf", "exact_match"]
    )
    for score in scores.scores.values():
        assert str(score) in page
    assert "chrf by length" in page
    without = run.report_path.read_text("utf-8")
    assert "by length" not in without
    assert "<dt>last validation</dt>" in without, "is there at any time"
    assert "not measured for this report; `qkv report --evaluate` adds it" in without


def test_resuming_writes_it_anew(recipe, tmp_path):
    run = qkv.train(recipe(tmp_path / "run"), progress=False)
    before = run.report_path.read_text("utf-8")
    resume(run.path, ["training.steps=8"], progress=False)
    assert "8 steps" not in before
    assert "8 steps" in run.report_path.read_text("utf-8")


def test_a_person_who_watches_is_told_where_it_is(recipe, tmp_path, capsys):
    run = qkv.train(recipe(tmp_path / "run"))
    assert re.search(rf"^report: {run.report_path}, written in \d+\.\d s$", capsys.readouterr().err, re.MULTILINE)
    qkv.train(recipe(tmp_path / "quiet"), progress=False)
    assert capsys.readouterr().err == ""


def test_a_report_that_fails_does_not_fail_the_training(recipe, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no\nink")

    monkeypatch.setattr(report, "line_chart", broken)
    run = qkv.train(recipe(tmp_path / "run"), progress=False)
    assert qkv.load(run.path).translate("ab") is not None
    assert not run.report_path.exists()
    said = capsys.readouterr().err
    assert said.endswith("qkv: training is complete, but its report could not be written: no ink\n")


def test_a_model_without_attention_has_a_report_without_the_picture(recipe, tmp_path):
    options = {"architecture": "gru"}
    run = qkv.train(recipe(tmp_path / "run", model=options, validation={"samples": 0}), progress=False)
    page = run.report_path.read_text("utf-8")
    assert "<h2>Curves</h2>" in page
    assert "<h2>Attention</h2>" not in page
    assert "<h2>Samples over time</h2>" not in page


def test_on_the_command_line(run, tmp_path, capsys):
    assert main(["report", str(run.path), "--text", "abba", "--output", str(tmp_path / "out.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out.html\n"
    assert "for: abba →" in (tmp_path / "out.html").read_text("utf-8")


def test_shapes_on_the_command_line(run, tmp_path, capsys):
    assert main(["shapes", str(run.path), "abba", "--target", "AB"]) == 0
    table = capsys.readouterr().out
    assert "(batch 1, head 2, target 3, source 5)" in table
    parameters = sum(parameter.numel() for parameter in qkv.load(run.path).model.parameters())
    assert re.search(rf"^all +{parameters:,} ", table, flags=re.MULTILINE)
    assert main(["shapes", "transformer", "--preset", "tiny", "--option", "num_heads=8", "--vocab-size", "99"]) == 0
    assert "(batch 1, target 5, vocab 99)" in capsys.readouterr().out
    for suffix, begins in ((".html", "<!DOCTYPE html>"), (".md", "# Shapes"), (".json", "{"), (".txt", "Shapes")):
        assert main(["shapes", str(run.path), "abba", "--all", "--output", f"{tmp_path}/table{suffix}"]) == 0
        assert (tmp_path / f"table{suffix}").read_text("utf-8").startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "say what RUN is to read"),
        (["RUN", "ab", "--preset", "tiny"], "--preset goes with an architecture; RUN is a run, which has its own"),
        (["RUN", "ab", "--output", "a.doc"], "a.doc: a table's name ends in .html, .md, .json or .txt"),
        (["transformer", "--option", "heads"], "'heads': an option is written KEY=VALUE"),
        (["transformer", "--preset", "tinny"], "model.preset: unknown preset 'tinny'; did you mean tiny?"),
    ],
)
def test_mistakes_on_the_command_line(run, capsys, arguments, message):
    assert main(["shapes", *(argument.replace("RUN", str(run.path)) for argument in arguments)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # before it the engine's name, if it came to that
    assert said.startswith(f"qkv: {message.replace('RUN', str(run.path))}")


def test_nothing_to_evaluate_on(recipe, tmp_path):
    run = qkv.train(recipe(tmp_path / "run", data={"test": None}), progress=False)
    with pytest.raises(UserError, match=r"its recipe has no data\.test to evaluate on"):
        write_report(run, evaluate=True, output=tmp_path / "page.html")
