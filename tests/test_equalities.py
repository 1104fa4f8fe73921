"""What must be equal on trained weights, too, where attention is sharp and outputs mean something.

cached = uncached, batched = alone, padded = unpadded, beam 1 = greedy, searched = scored.
"""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

import qkv
from qkv.decoding.beam import beam_search
from qkv.decoding.greedy import greedy
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.search import search
from qkv.decoding.steps import Progress
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import pad
from qkv.text.tokenizer import Tokenizer
from qkv.translator import Translator

pytestmark = pytest.mark.usefixtures("without_shape_checks")

CLOSE = {"rtol": 0.0, "atol": 1e-10}  # everything below is computed in float64


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefgh", k=generator.randint(2, 8))) for _ in range(count)]


@pytest.fixture(scope="module", params=["post", "pre, rotary"])
def trained(request, tmp_path_factory, without_shape_checks) -> Translator:
    """Has learnt to copy words, more or less."""
    directory: Path = tmp_path_factory.mktemp("copy")
    (directory / "train.tsv").write_text("".join(f"{word}\t{word}\n" for word in words(2000, seed=1)))
    pre = request.param != "post"
    recipe = {
        "run": str(directory / "run"),
        "device": "cpu",
        "threads": 1,
        "data": {"train": str(directory / "train.tsv")},
        "tokenizer": {"kind": "char"},
        "model": {
            "d_model": 32,
            "num_heads": 4,
            "d_ff": 64,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "dropout": 0.1,
            "norm_position": "pre" if pre else "post",
            "position": "rotary" if pre else "sinusoidal",
        },
        "training": {"steps": 200, "batch_tokens": 512, "learning_rate": 5e-3, "warmup_steps": 40},
    }
    translator = qkv.load(qkv.train(recipe, progress=False).path, device="cpu")
    translator.model.double()
    return translator


@pytest.fixture(scope="module")
def model(trained) -> Seq2Seq:
    return trained.model


@pytest.fixture(scope="module")
def tokenizer(trained) -> Tokenizer:
    return trained.tokenizers.source


def encoded(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor | None]:
    return pad([[*ids, tokenizer.eos] for ids in tokenizer.encode(texts)], tokenizer.pad)


def ids_of(tokenizer: Tokenizer) -> dict[str, int]:
    return {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}


def assert_same(some: list[Hypothesis], others: list[Hypothesis]) -> None:
    assert [hypothesis.tokens for hypothesis in some] == [hypothesis.tokens for hypothesis in others]
    for one, other in zip(some, others, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-8)
        assert one.score == pytest.approx(other.score, abs=1e-8)
        assert one.finished == other.finished


def test_it_is_trained(trained):
    """Else the tests below would show no more than those on random weights."""
    unseen = words(50, seed=2)
    outputs = trained.translate(unseen, beam=1)
    letters = sum(map(len, unseen))
    right = sum(sum(map(str.__eq__, word, output)) for word, output in zip(unseen, outputs, strict=True))
    assert right > 0.6 * letters


@torch.no_grad()
def test_cached_equals_uncached(model, tokenizer):
    source, mask = encoded(tokenizer, ["abcdefgh", "hg", "cafe"])
    target, _ = pad([[tokenizer.bos, *ids] for ids in tokenizer.encode(["abcdefgh", "hg", "fade"])], tokenizer.pad)
    memory = model.encode(source, mask)
    whole = model.project(model.decode(target, memory))
    for chunk in (1, 2, 5):
        state = model.start(memory)
        parts = [model.project(model.decode(part, memory, state)) for part in target.split(chunk, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, **CLOSE)
        assert state.length == target.shape[1]


@torch.no_grad()
def test_padded_equals_unpadded(model, tokenizer):
    source, _ = encoded(tokenizer, ["bad"])
    target = torch.tensor([[tokenizer.bos, *tokenizer.encode(["bad"])[0]]])
    alone = model(source, target)
    wide = torch.nn.functional.pad(source, (0, 7), value=tokenizer.pad)
    mask = torch.arange(wide.shape[1])[None] < source.shape[1]
    long = torch.nn.functional.pad(target, (0, 3), value=tokenizer.pad)
    torch.testing.assert_close(model(wide, long, mask)[:, : target.shape[1]], alone, **CLOSE)
    for filling in (tokenizer.unk, tokenizer.eos, tokenizer.encode(["e"])[0][-1]):
        other = wide.masked_fill(~mask, filling)
        torch.testing.assert_close(model(other, long, mask)[:, : target.shape[1]], alone, **CLOSE)


@torch.no_grad()
def test_batched_equals_alone(model, tokenizer):
    texts = ["abcdefgh", "hg", "cafe", "bead"]
    source, mask = encoded(tokenizer, texts)
    targets = [[tokenizer.bos, *ids] for ids in tokenizer.encode(texts)]
    target, _ = pad(targets, tokenizer.pad)
    together = model(source, target, mask)
    for row, text in enumerate(texts):
        alone = model(encoded(tokenizer, [text])[0], torch.tensor([targets[row]]))
        torch.testing.assert_close(together[row : row + 1, : len(targets[row])], alone, **CLOSE)


@pytest.mark.parametrize("beam", [1, 4])
def test_searched_in_a_batch_equals_searched_alone(model, tokenizer, beam):
    """Sentences end at different steps, leave the batch, and the rest moves up."""
    texts = words(12, seed=3)
    options = SearchOptions(beam=beam, n_best=min(2, beam))
    source, mask = encoded(tokenizer, texts)
    together = search(model, source, mask, **ids_of(tokenizer), options=options)
    for text, found in zip(texts, together, strict=True):
        [alone] = search(model, encoded(tokenizer, [text])[0], **ids_of(tokenizer), options=options)
        assert_same(found, alone)


def test_a_beam_of_one_equals_greedy(model, tokenizer):
    source, mask = encoded(tokenizer, words(30, seed=4))
    options = SearchOptions(beam=1)
    by_beam = beam_search(Progress(model, source, mask, **ids_of(tokenizer), options=options))
    assert_same(
        [found[0] for found in by_beam], greedy(Progress(model, source, mask, **ids_of(tokenizer), options=options))
    )


def test_translated_in_any_order_and_any_batch_is_the_same(trained):
    texts = words(20, seed=5)
    expected = dict(zip(texts, trained.translate(texts, beam=2), strict=True))
    shuffled = sorted(texts, key=lambda word: word[::-1])
    small = Translator(trained.model, trained.tokenizers, options=trained.options, batch_tokens=50)
    assert dict(zip(shuffled, small.translate(shuffled, beam=2), strict=True)) == expected


@pytest.mark.parametrize("beam", [1, 4])
def test_searched_equals_scored(trained, beam):
    """What a search says of its outputs is what the model says of them when it is given them."""
    texts = words(20, seed=6)
    found = [best[0] for best in trained.n_best(texts, 1, beam=beam)]
    scores = trained.score([(text, output.text) for text, output in zip(texts, found, strict=True)])
    compared = 0
    for output, score in zip(found, scores, strict=True):
        if score.tokens[:-1] == output.tokens:  # else it was cut off, or written in another way than it was found
            assert output.log_probability == pytest.approx(score.log_probability, abs=1e-8)
            compared += 1
    assert compared > 15
