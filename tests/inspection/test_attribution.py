"""Attribution: against finite differences and against models fed with changed vectors."""

import numpy as np
import pytest
import torch

from qkv.errors import UserError
from qkv.inspection.attribution import attribute
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.embedding import TokenEmbedding

SOURCE, TARGET = "abba cad", "CAB D"


def predicted_with(translator, position, factor, monkeypatch):
    """The target's log-probabilities when the vector at one source position is scaled."""
    forward = TokenEmbedding.forward

    def scaled(self, tokens):
        vectors = forward(self, tokens)
        if self is translator.model.source_embedding.tokens:
            vectors = vectors.clone()
            vectors[:, position] *= factor
        return vectors

    with monkeypatch.context() as patched:
        patched.setattr(TokenEmbedding, "forward", scaled)
        (score,) = translator.score([(SOURCE, TARGET)])
    return np.array(score.token_log_probabilities)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_is_the_slope_along_the_vector(architecture, make_translator, monkeypatch):
    translator = make_translator(architecture)
    found = attribute(translator, SOURCE, TARGET, method="gradient")
    assert found.scores.shape == (len(found.target_tokens), len(found.source_tokens)) == (6, 9)
    for position in range(9):
        more, less = (predicted_with(translator, position, factor, monkeypatch) for factor in (1 + 1e-5, 1 - 1e-5))
        np.testing.assert_allclose(found.scores[:, position], (more - less) / 2e-5, rtol=1e-5, atol=1e-6)
    assert np.abs(found.scores).max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_occlusion_is_what_is_lost_without_the_vector(architecture, make_translator, monkeypatch):
    translator = make_translator(architecture)
    found = attribute(translator, SOURCE, TARGET, method="occlusion")
    whole = predicted_with(translator, 0, 1.0, monkeypatch)
    for position in range(9):
        without = predicted_with(translator, position, 0.0, monkeypatch)
        np.testing.assert_allclose(found.scores[:, position], whole - without, atol=1e-10)
    assert np.abs(found.scores).max() > 1e-3


def test_long_sources_are_occluded_in_parts(make_translator, monkeypatch):
    translator = make_translator()
    whole = attribute(translator, SOURCE, TARGET, method="occlusion").scores
    monkeypatch.setattr("qkv.inspection.attribution._ROWS_AT_ONCE", 2)
    np.testing.assert_allclose(attribute(translator, SOURCE, TARGET, method="occlusion").scores, whole, atol=1e-12)


def test_tied_embeddings_change_on_the_source_side_only(make_translator, tokenizers, monkeypatch):
    translator = make_translator()
    embedding = translator.model.source_embedding
    assert tokenizers.source.vocab_size <= tokenizers.target.vocab_size
    monkeypatch.setattr(embedding, "tokens", translator.model.target_embedding.tokens)
    calls = []
    decode = translator.model.decode

    def watched(target, memory, *rest):
        calls.append(embedding.tokens._forward_hooks.copy())
        return decode(target, memory, *rest)

    monkeypatch.setattr(translator.model, "decode", watched)
    attribute(translator, SOURCE, TARGET, method="gradient")
    assert calls == [{}]


def test_the_model_is_left_as_it_was(make_translator):
    translator = make_translator()
    before = {name: tensor.clone() for name, tensor in translator.model.state_dict().items()}
    with torch.inference_mode():
        attribute(translator, SOURCE)
    attribute(translator, SOURCE, method="occlusion")
    assert all((tensor == before[name]).all() for name, tensor in translator.model.state_dict().items())
    assert all(parameter.grad is None for parameter in translator.model.parameters())
    assert not any(module._forward_hooks for module in translator.model.modules())


def test_it_follows_the_models_own_output_and_draws_itself(make_translator):
    translator = make_translator()
    found = attribute(translator, "a<b", beam=1)
    text = translator.tokenizers.target.decode([[]])[0] + translator.translate("a<b", beam=1)
    assert "".join(found.target_tokens).removesuffix("</s>").replace("▁", " ") == text
    drawn = found._repr_html_()
    assert 'aria-label="gradient"' in drawn
    assert drawn.count("<foreignObject") == (2 if (found.scores < 0).any() else 1)


def test_an_unknown_method(make_translator):
    with pytest.raises(UserError, match="unknown method 'magic'; choose from gradient, occlusion"):
        attribute(make_translator(), "ab", method="magic")
