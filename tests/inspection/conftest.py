"""What the tests of looking inside share: translators whose models are small and, mostly, untrained."""

import pytest
import torch

from qkv.decoding.options import SearchOptions
from qkv.nn.architectures import ARCHITECTURES
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings
from qkv.translator import Translator

LINES = ["ab cab", "abc bad", "dab cd", "dcba ab abba", "cada b"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> Tokenizers:
    pairs = [Pair(line, line.upper()) for line in LINES]
    settings = TokenizerSettings(kind="char", joint=False)
    return Tokenizers.learn(pairs, tmp_path_factory.mktemp("tokenizers"), settings)


@pytest.fixture
def make_translator(tokenizers):
    """A translator in float64 of any architecture, freshly initialised from a fixed seed."""

    def make(architecture="transformer", beam=3, **changes) -> Translator:
        torch.manual_seed(5)
        family = ARCHITECTURES[architecture]
        sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1, "tie": "target"}
        if architecture == "transformer":
            sizes |= {"num_heads": 4, "d_ff": 24}
        source, target = tokenizers.source.vocab_size, tokenizers.target.vocab_size
        options = sizes | dict(family.implied) | changes
        model = family.build(family.config(source, target_vocab_size=target, **options)).double()
        with torch.no_grad():  # larger weights than a fresh model's, so that heads and tokens differ
            for parameter in model.parameters():
                parameter.mul_(1.7)
        return Translator(model, tokenizers, options=SearchOptions(beam=beam, max_length_extra=3))

    return make
