"""Tokenizers and models for the tests of what is exported."""

import pytest
import torch

from qkv.nn import Transformer, TransformerConfig
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings

SOURCES = ["a man rides a bicycle", "two women and a man sit in the sun", "the dog sees the man", "a dog"]
TARGETS = ["ein Mann fährt Fahrrad", "zwei Frauen und ein Mann sitzen in der Sonne", "der Hund sieht ihn", "ein Hund"]

_SIZES = {"d_model": 16, "num_heads": 2, "d_ff": 24, "encoder_layers": 2, "decoder_layers": 1, "tie": "none"}


def learn(path, **settings):
    return Tokenizers.learn(map(Pair, SOURCES, TARGETS), path, TokenizerSettings(kind="bpe", vocab_size=60, **settings))


@pytest.fixture(scope="session")
def separate(tmp_path_factory):
    """Tokenizers with a vocabulary for each side."""
    return learn(tmp_path_factory.mktemp("separate"), joint=False)


@pytest.fixture(scope="session")
def joint_path(tmp_path_factory):
    """Where `joint` is."""
    path = tmp_path_factory.mktemp("joint")
    learn(path)
    return path


@pytest.fixture(scope="session")
def joint(joint_path):
    """One tokenizer for both sides."""
    return Tokenizers.load(joint_path)


@pytest.fixture(scope="session")
def make_model():
    """A function that makes a model whose next token is far from certain, and far from even."""

    def make(tokenizers, *, seed=0, **options):
        torch.manual_seed(seed)
        sizes = {"vocab_size": tokenizers.source.vocab_size, "target_vocab_size": tokenizers.target.vocab_size}
        model = Transformer(TransformerConfig(**(sizes | _SIZES | options))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)
                else:  # biases and norms start as zeros and ones, which would hide one that is lost
                    parameter.add_(0.3 * torch.randn_like(parameter))
            # The source tells more than the last token, else one piece is repeated for ever.
            model.target_embedding.tokens.weight.mul_(0.3)
            model.output.weight[tokenizers.target.eos].mul_(2)
        return model

    return make


@pytest.fixture(scope="session")
def encode():
    """A function that makes ids of all sources or targets, the end of sentence included."""

    def ids(tokenizers, side="source"):
        tokenizer, texts = getattr(tokenizers, side), {"source": SOURCES, "target": TARGETS}[side]
        return [[*tokens, tokenizer.eos] for tokens in tokenizer.encode(texts)]

    return ids
