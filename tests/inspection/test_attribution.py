"""Attribution: against finite differences, changed vectors, and a linear model, of which all is known."""

import numpy as np
import pytest
import torch

from qkv.errors import UserError
from qkv.inspection.attribution import METHODS, ForcedPair, attribute, scores_of
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.embedding import Embedding, TokenEmbedding
from qkv.nn.seq2seq import Memory, Seq2Seq

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


class LinearModel(Seq2Seq):
    """The log-probability of token 0 at step t is Σᵢ slope[t, i] · vector i, a number below zero; 1 takes the rest."""

    def __init__(self, slopes):
        super().__init__()
        self.source_embedding = Embedding(TokenEmbedding(10, slopes.shape[-1]), "none")
        self.slopes = slopes

    def encode(self, source, source_mask=None, record=None):
        return Memory(self.source_embedding(source), source_mask)

    def decode(self, target, memory, state=None, record=None):
        certain = -torch.einsum("tid,bid->bt", self.slopes, memory.states)
        return torch.stack([-certain, torch.log1p(-torch.exp(-certain))], dim=-1)

    def project(self, hidden):
        return hidden

    def start(self, memory):
        raise NotImplementedError


@pytest.mark.parametrize("method", METHODS)
def test_of_a_linear_model_every_method_tells_the_terms_of_the_sum(method):
    source, target = torch.tensor([[3, 1, 4, 1]]), torch.zeros(1, 3, dtype=torch.long)
    model = LinearModel(-torch.rand(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    model = model.double().eval()
    with torch.no_grad():
        model.source_embedding.tokens.weight.abs_()
        vectors = model.source_embedding(source)[0]
        terms = torch.einsum("tid,id->ti", model.slopes, vectors)
    found = scores_of(ForcedPair(model, source, target, target), method)
    torch.testing.assert_close(found.double(), terms, atol=1e-6, rtol=1e-6)
    assert terms.std() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_integrated_gradients_add_up_to_what_the_source_gains(architecture, make_translator, monkeypatch):
    translator = make_translator(architecture)
    found = attribute(translator, SOURCE, TARGET, method="integrated")
    whole, nothing = (predicted_with(translator, slice(None), factor, monkeypatch) for factor in (1.0, 0.0))
    gap = np.abs(found.scores.sum(axis=1) - (whole - nothing)).max()
    assert gap < 0.05 * np.abs(whole - nothing).max()
    assert found.gap == pytest.approx(gap, abs=1e-9)


def test_an_integral_that_is_too_coarse_says_so(make_translator, monkeypatch):
    translator = make_translator()
    monkeypatch.setattr("qkv.inspection.attribution._FEWEST_POINTS", 2)
    monkeypatch.setattr("qkv.inspection.attribution._MOST_POINTS", 2)
    found = attribute(translator, SOURCE, TARGET, method="integrated")
    whole, nothing = (predicted_with(translator, slice(None), factor, monkeypatch) for factor in (1.0, 0.0))
    assert found.gap == pytest.approx(np.abs(found.scores.sum(axis=1) - (whole - nothing)).max())
    assert found.gap > 0.1 * np.abs(whole - nothing).max()
    assert f"within {found.gap:.2g} nats" in found._repr_html_()


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
    with pytest.raises(UserError, match="unknown method 'magic'; choose from gradient, integrated, occlusion"):
        attribute(make_translator(), "ab", method="magic")
