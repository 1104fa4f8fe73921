"""What is shown is what `translate` gives, whatever has found it; the model itself is led along it."""

import pytest
import torch

from qkv.decoding.hypothesis import Hypothesis
from qkv.inspection.ablation import Head
from qkv.inspection.attention_maps import attention_maps
from qkv.inspection.attribution import attribute
from qkv.inspection.shapes import shapes
from qkv.serving.examination import Look, Subject
from qkv.translator import Translator

SOURCE, OUTPUT = "abba cad", "DAB"


class Stubborn:
    """An engine that finds the same for every source."""

    name, precision, shortlist, exact, longest, note = "stubborn", "int8", None, False, None, ""

    def __init__(self, tokens, lacks=()):
        self.tokens, self.lacks, self.requests = tokens, frozenset(lacks), []

    def search(self, request, *, batch_tokens=8192, on_progress=None):
        self.requests.append(request)
        found = [Hypothesis(self.tokens, -0.5, -1.0, True), Hypothesis(self.tokens[:1], -0.7, -1.4, True)]
        return [found[: request.options.n_best] for _ in request.sources]

    def score(self, sources, targets):
        raise AssertionError("what is shown is how probable the model itself finds it")


@pytest.fixture
def pair(make_translator):
    """A translator whose engine finds something else than its model, and one of the same model alone."""

    def make(**options):
        plain = make_translator()
        (tokens,) = plain.tokenizers.target.encode([OUTPUT])
        engine = Stubborn(tokens, **options)
        return Translator(plain.model, plain.tokenizers, options=plain.options, engine=engine), plain

    return make


def test_maps_attribution_and_shapes_are_those_of_the_translation(pair):
    translator, plain = pair()
    assert translator.translate(SOURCE) == OUTPUT != plain.translate(SOURCE)
    shown, expected = attention_maps(translator, SOURCE), attention_maps(plain, SOURCE, OUTPUT)
    assert shown.translation == OUTPUT
    assert [one.text for one in shown.n_best] == [OUTPUT, OUTPUT[0]]
    assert shown.score == -0.5, "what the engine ranks by"
    assert shown.log_probabilities == expected.log_probabilities
    assert shown.target_tokens == expected.target_tokens == [*OUTPUT, "</s>"]
    for kind, weights in expected.attention.items():
        assert (shown.attention[kind] == weights).all()
    assert (attribute(translator, SOURCE).scores == attribute(plain, SOURCE, OUTPUT).scores).all()
    assert shapes(translator, SOURCE) == shapes(plain, SOURCE, OUTPUT)


def test_the_inspector_shows_the_translation_and_names_both_engines(pair):
    translator, plain = pair()
    subject, model = Subject("one", translator), Subject("two", plain)
    options = translator.search_options(3, None, n_best=2)
    answer = subject.examine(Look(SOURCE, options))
    assert [found["text"] for found in answer["n_best"]] == [OUTPUT, OUTPUT[0]]
    assert "".join(one["piece"] for one in answer["target"][:-1]) == OUTPUT
    assert "stubborn int8" in answer["note"]
    assert "torch float32" in answer["note"]
    own = model.examine(Look(SOURCE, options))
    assert own["note"] is None
    assert answer["tree"]["candidates"] == own["tree"]["candidates"], "a search that can be looked at is torch's"
    for what in (subject.attribute(Look(SOURCE, options), "gradient")["target"], answer["target"]):
        assert "".join(one["piece"] for one in what[:-1]) == OUTPUT
    assert subject.shapes(Look(SOURCE, options))["target_tokens"] == ["<s>", *OUTPUT]


@pytest.mark.parametrize("lacks", [(), ("prefix",)])
def test_what_the_engine_cannot_do_is_torchs_and_said(pair, lacks):
    translator, plain = pair(lacks=lacks)
    subject, model = Subject("one", translator), Subject("two", plain)
    options = translator.search_options(3, None, n_best=2)
    off = {"off": [Head("cross", 1, 1)]}
    for asked, able in ((off, False), ({"prefix": "DA"}, not lacks)):
        answer, own = (one.examine(Look(SOURCE, options, **asked)) for one in (subject, model))
        if able:
            assert answer["n_best"][0]["text"] == OUTPUT
            (prefix,) = translator.engine.requests[-1].prefixes
            assert translator.tokenizers.target.pieces(prefix) == ["D", "A"]
            assert answer["note"].startswith("Translated by stubborn int8; ")
        else:
            assert answer["n_best"] == own["n_best"]
            assert answer["note"].startswith("Searched by torch float32: stubborn int8, ")


def test_probabilities_are_of_float32_at_least(make_translator):
    translator = make_translator()
    translator.model.to(torch.bfloat16)
    subject = Subject("one", translator)
    answer = subject.examine(Look(SOURCE, translator.options))
    rows = [[one["log_probability"] for one in row] for row in answer["candidates"]]
    for row in (*rows, answer["log_probabilities"]):
        values = torch.tensor(row, dtype=torch.float64)
        assert (values.to(torch.bfloat16).double() != values).any(), "more digits than bfloat16 has"


def test_the_inspector_lists_what_n_best_lists(make_translator):
    plain = make_translator()
    target = plain.tokenizers.target
    best, other = target.encode([OUTPUT, "BAD"])
    found = [
        Hypothesis(best, -0.5, -1.0, True),
        Hypothesis([target.bos, *best], -0.6, -1.2, True),  # the same text
        Hypothesis(other * 3, -0.1, -0.9, False),  # a loop that scores best
        Hypothesis(other, -0.7, -1.4, False),
    ]

    class Given(Stubborn):
        def search(self, request, *, batch_tokens=8192, on_progress=None):
            return [found[: request.options.n_best] for _ in request.sources]

    translator = Translator(plain.model, plain.tokenizers, options=plain.options, engine=Given(best))
    options = translator.search_options(4, None, n_best=3)
    shown = Subject("one", translator).examine(Look(SOURCE, options))["n_best"]
    listed = translator.n_best([SOURCE], 3, beam=4)[0]
    assert [(one["text"], one["finished"]) for one in shown] == [(OUTPUT, True), ("BAD", False)]
    assert [(one.text, one.finished, one.score) for one in listed] == [(OUTPUT, True, -0.5), ("BAD", False, -0.7)]
    assert [one.text for one in attention_maps(translator, SOURCE, beam=4).n_best] == [OUTPUT, "BAD"]
