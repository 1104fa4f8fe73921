"""How fast a model is, on the paths that people use; and what is measured stays as it was."""

import time

import pytest
import torch

from qkv.config.schema import TrainingConfig
from qkv.decoding.options import SearchOptions
from qkv.devices import undisturbed
from qkv.measuring import speed
from qkv.measuring.speed import DECODED_ROWS, TrainingStep, decoding_speed, times_by_length
from qkv.nn.transformer import Transformer, TransformerConfig
from qkv.text.batches import Batch
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings
from qkv.training.gradient import Gradient
from qkv.translator import Translation, Translator

LINES = ["ab cab", "abc bad", "dab cd"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(speed, "_REPEATS", 1)


@pytest.fixture
def translator(tmp_path):
    settings = TokenizerSettings(kind="char", joint=False)
    tokenizers = Tokenizers.learn([Pair(line, line.upper()) for line in LINES], tmp_path, settings)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 1, "norm": "batch"}
    source, target = tokenizers.source.vocab_size, tokenizers.target.vocab_size
    return Translator(Transformer(TransformerConfig(source, target_vocab_size=target, tie="none", **sizes)), tokenizers)


def test_times_leave_the_model_as_it_was(translator):
    model, chance = translator.model, torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = times_by_length(translator, TrainingConfig(weight_decay=0.1, ema=0.9), lengths=(4, 8))
    assert [one.length for one in found] == [4, 8]
    assert all(0 < one.decoding_seconds * DECODED_ROWS * one.length < 60 for one in found)
    assert all(0 < one.training_seconds < 60 for one in found)
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), "averages, too"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), chance)


def test_lengths_beyond_the_model_are_left_out(translator):
    translator.model.longest = 5
    assert [one.length for one in times_by_length(translator, TrainingConfig(), lengths=(4, 8))] == [4]


def test_training_is_timed_as_the_trainer_does_it(translator, monkeypatch):
    """Through its gradient, which shares a batch out among threads, and with the optimizer's step."""
    added, stepped = [], []
    add = Gradient.add
    monkeypatch.setattr(Gradient, "add", lambda self, batches: added.append(len(batches)) or add(self, batches))
    step = torch.optim.Optimizer.step
    tokens = torch.ones(4, 6, dtype=torch.int64)
    one = TrainingStep(translator.model, TrainingConfig(learning_rate=0.1))
    copy = one._model
    monkeypatch.setattr(
        one._optimization, "step", lambda number, learning_rate: stepped.append((number, learning_rate))
    )
    one([Batch(tokens, None, tokens, tokens, None, 24)] * 2)
    one.close()
    assert (added, stepped, step is not None) == ([2], [(1, 0.0)], True)
    assert copy is not translator.model
    assert any(parameter.grad is not None for parameter in copy.parameters())


def test_decoding_is_timed_on_the_model_that_searches(translator, monkeypatch):
    """The one that is laid out for decoding; its encoder's time is not in it."""
    searching, calls = translator.reference.model, []
    assert searching is not translator.model
    encode = type(searching).encode

    def slow(self, *arguments, **named):
        if self is searching:
            calls.append("encode")
            time.sleep(0.2)
        return encode(self, *arguments, **named)

    monkeypatch.setattr(type(searching), "encode", slow)
    (found,) = times_by_length(translator, TrainingConfig(), lengths=(4,))
    assert calls == ["encode"] * 2, "once to warm up"
    assert found.decoding_seconds * DECODED_ROWS * 4 < 0.2


class Slow(Translator):
    """Answers every source with two tokens, and remembers what it was asked."""

    device = torch.device("cpu")
    options = SearchOptions()

    def __init__(self, of):
        self.asked, self._engine = [], of.engine

    def translate(self, sources, **options):
        return list(sources)

    def n_best(self, sources, n, **options):
        self.asked.append((list(sources), n, options))
        return [[Translation("a b", 0.0, 0.0, ["a", "b"])] for _ in sources]


def test_decoding_speed_is_of_a_sample_spread_over_all_sources(translator):
    slow = Slow(translator)
    found = decoding_speed(slow, [str(number) for number in range(1000)], beam=3)
    ((sources, n, options),) = slow.asked
    assert sources == [str(number) for number in range(0, 1000, 5)]
    assert (n, options) == (1, {"beam": 3})
    assert (found.engine, found.sources) == ("torch float32", 200)
    assert found.tokens_per_second == pytest.approx(2 * found.sentences_per_second)


def test_who_sets_threads_and_seed_sets_them_for_a_block_alone():
    def disturb():
        torch.set_num_threads(before + 2)
        torch.manual_seed(7)
        raise RuntimeError

    before, chance = torch.get_num_threads(), torch.get_rng_state()
    with undisturbed(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(RuntimeError), undisturbed():
        disturb()
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), chance)
