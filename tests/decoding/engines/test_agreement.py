"""An engine that computes something else is found out, by its scores or by its search."""

import pytest
import torch

from qkv.decoding.engines.agreement import check
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.errors import UserError
from qkv.nn import Transformer, TransformerConfig
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    pairs = [Pair("abcdefgh", "hgfedcba"), Pair("ijklmnop", "ponmlkji")]
    return Tokenizers.learn(pairs, tmp_path_factory.mktemp("tokenizer"), TokenizerSettings(kind="char", vocab_size=40))


@pytest.fixture
def engine_of(tokenizers):
    """An engine of the same model each time, or of one whose output weights are changed."""

    def engine_of(change=None, **options):
        torch.manual_seed(0)
        sizes = {"d_model": 16, "num_heads": 2, "d_ff": 24, "encoder_layers": 1, "decoder_layers": 1, "tie": "none"}
        model = Transformer(TransformerConfig(tokenizers.source.vocab_size, **sizes, **options)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
            if change is not None:
                model.output.weight.copy_(change(model.output.weight))
        return TorchEngine(model, tokenizers)

    return engine_of


@pytest.fixture
def checked(tokenizers, engine_of):
    def checked(engine, tolerance=0.001, **options):
        return check(engine, engine_of(), tokenizers, tolerance, name="It", **options)

    return checked


def test_what_is_the_same_agrees(checked, engine_of):
    found = checked(engine_of())
    assert (found.sources, found.largest, found.same) == (6, 0.0, 6)
    assert found.tokens >= 6


def test_a_small_distance_is_told(checked, engine_of):
    found = checked(engine_of(lambda weight: weight * 1.0001))
    assert 0 < found.largest < 0.01


@pytest.mark.parametrize("change", [lambda weight: weight * 1.5, lambda weight: weight * float("nan")])
def test_other_probabilities_are_refused(change, checked, engine_of):
    with pytest.raises(UserError, match="It disagrees with torch on this model"):
        checked(engine_of(change), outputs=False)


def test_a_search_that_takes_other_tokens_is_refused(checked, engine_of, monkeypatch):
    engine, other = engine_of(), engine_of(lambda weight: -weight)
    monkeypatch.setattr(engine, "search", other.search)
    with pytest.raises(UserError, match="It's search disagrees with torch's"):
        checked(engine)
    assert checked(engine, outputs=False).same < 6


def test_sources_are_no_longer_than_a_model_can_read(tokenizers, engine_of):
    engine = engine_of(position="learned", max_length=7)
    assert check(engine, engine, tokenizers, 0.001, name="It", longest=7).same == 6
