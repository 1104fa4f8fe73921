"""Unknown symbols pass through: each unk of an output becomes the source symbol that it was written for."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
from qkv.errors import UserError

pytestmark = pytest.mark.usefixtures("without_shape_checks")
KNOWN = ["ka", "to", "mi", "re", "su", "ba", "ne", "lo"]
NAMES = st.text("pqvwxyzäß東京", min_size=2, max_size=5)


def sentence(chance, names):
    words = [*chance.choices(KNOWN, k=chance.randint(2, 4)), *names]
    chance.shuffle(words)
    return " ".join(words)


def translated(source):
    return " ".join(word.upper() if word in KNOWN else word for word in source.split())


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """Has learnt to write known words in upper case, and to leave unknown ones unknown."""
    path, chance = tmp_path_factory.mktemp("names"), random.Random(3)
    names = ("".join(chance.choices("fghijklm", k=6)) for _ in range(2000))
    sources = [sentence(chance, [next(names) for _ in range(number % 3)]) for number in range(600)]
    (path / "train.tsv").write_text("".join(f"{source}\t{translated(source)}\n" for source in sources))
    recipe = {
        "run": str(path / "run"),
        "device": "cpu",
        "threads": 1,
        "data": {"train": str(path / "train.tsv")},
        "tokenizer": {"kind": "word", "vocab_size": 20},
        "model": {"d_model": 64, "num_heads": 4, "d_ff": 128, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0},
        "training": {"steps": 300, "batch_tokens": 512, "learning_rate": 3e-3, "warmup_steps": 40},
        "decoding": {"beam": 1},
    }
    return qkv.load(qkv.train(recipe, progress=False).path, device="cpu")


def test_each_name_comes_to_its_place(translator):
    chance = random.Random(9)
    sources = [sentence(chance, ["".join(chance.choices("pqvwxyz", k=4)) for _ in range(2)]) for _ in range(100)]
    right = list(map(translated, sources))
    marked = translator.translate(sources)
    copied = translator.translate(sources, unknown="copy")
    assert sum("⁇" in text for text in marked) > 90
    assert sum(map(str.__eq__, copied, right)) >= 80
    assert not any("⁇" in text for text in copied)
    dropped = translator.translate(sources, unknown="drop")
    assert dropped == [" ".join(text.replace("⁇", "").split()) for text in marked]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(KNOWN) | NAMES, min_size=1, max_size=6), min_size=1, max_size=5))
def test_what_is_copied_stands_in_the_source(translator, sources):
    texts = [" ".join(words) for words in sources]
    marked, copied = translator.translate(texts), translator.translate(texts, unknown="copy")
    unknown = translator.read(texts).unknown
    for index, (words, before, after) in enumerate(zip(sources, marked, copied, strict=True)):
        unknown_words = [word for word in words if word not in KNOWN]
        assert " ".join(unknown.get(index, [])).split() == unknown_words
        symbols = "|".join(map(re.escape, unknown.get(index, words)))
        assert re.fullmatch(f"({symbols})".join(map(re.escape, before.split("⁇"))), after)


def test_n_best_lists_take_it_too(translator):
    [outputs] = translator.n_best(["ka xyz to"], 3, unknown="copy")
    assert outputs[0].text == "KA xyz TO"
    assert "<unk>" in outputs[0].tokens
    assert translator.translate("ka xyz to", unknown="copy") == "KA xyz TO"


def test_what_else_is_asked_for_is_refused(translator):
    with pytest.raises(UserError, match="unknown must be mark or copy or drop, not 'keep'"):
        translator.translate("ka", unknown="keep")
