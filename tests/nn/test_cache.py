"""Decoding step by step with a cache equals decoding the whole target at once."""

import pytest
import torch
from torch import Tensor

from qkv.nn import AttentionRecord, DecoderLayer, LayerConfig, Memory, Transformer, TransformerConfig
from qkv.nn.attention import MultiHeadAttention
from qkv.nn.cache import TransformerCache

CLOSE = {"atol": 1e-10, "rtol": 0}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def in_steps(model: Transformer, target: Tensor, memory: Memory, sizes: list[int]) -> Tensor:
    """Decode with a cache, so many tokens at a time."""
    cache = model.start(memory)
    hidden = []
    for part in target.split(sizes, dim=1):
        before = cache.length
        hidden.append(model.decode(part, memory, cache))
        assert cache.length == before + part.shape[1]
    return torch.cat(hidden, dim=1)


def for_each_beam(memory: Memory, beam: int) -> Memory:
    """The memory, a copy for each beam, as a pass without a cache needs it."""
    return Memory(memory.states.repeat_interleave(beam, 0), memory.mask.repeat_interleave(beam, 0))


@pytest.mark.parametrize("sizes", [[1] * 6, [6], [3, 3], [1, 4, 1]], ids=str)
def test_cached_equals_uncached(model, source, target, sizes):
    memory = model.encode(source, source != 0)
    whole = model.decode(target, memory)
    torch.testing.assert_close(in_steps(model, target, memory, sizes), whole, **CLOSE)


def test_the_cache_grows(plain_model, source):
    memory = plain_model.encode(source)
    target = torch.randint(1, 11, (3, 40))
    whole = plain_model.decode(target, memory)
    torch.testing.assert_close(in_steps(plain_model, target, memory, [15, 1, 1, 1, 15, 1, 1, 5]), whole, **CLOSE)


def test_beams_share_the_memory(model, source):
    beam = 4
    target = torch.randint(1, 11, (3 * beam, 5))
    memory = model.encode(source, source != 0)
    expected = model.decode(target, for_each_beam(memory, beam))
    torch.testing.assert_close(in_steps(model, target, memory, [1] * 5), expected, **CLOSE)
    torch.testing.assert_close(in_steps(model, target, memory, [2, 3]), expected, **CLOSE)


def test_reordered_beams_go_on_as_what_they_are_now(model, source):
    target = torch.randint(1, 11, (6, 5))
    memory = model.encode(source, source != 0)
    rows = torch.tensor([1, 1, 2, 3, 5, 4])  # the first sentence's second beam wins, the third's change places
    cache = model.start(memory)
    model.decode(target[:, :3], memory, cache)
    cache.reorder(rows)
    assert cache.length == 3
    continued = torch.cat((target[rows, :3], target[:, 3:]), dim=1)
    expected = in_steps(model, continued, memory, [5])[:, 3:]
    torch.testing.assert_close(model.decode(target[:, 3:], memory, cache), expected, **CLOSE)


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("kept", [[0, 2], [1], [2, 0], [0, 1, 2]], ids=str)
def test_finished_sentences_leave_with_their_beams(plain_model, source, beam, kept):
    model = plain_model
    target = torch.randint(1, 11, (3 * beam, 5))
    memory = model.encode(source, source != 0)
    whole = in_steps(model, target, memory, [5])
    cache, sentences = model.start(memory), torch.tensor(kept)
    model.decode(target[:, :2], memory, cache)
    cache.keep(sentences)
    memory = memory.keep(sentences)
    rows = [sentence * beam + b for sentence in kept for b in range(beam)]
    hidden = model.decode(target[rows, 2:], memory, cache)
    torch.testing.assert_close(hidden, whole[rows, 2:], **CLOSE)
    assert cache.length == 5


def test_sentences_can_leave_before_the_first_token(plain_model, source):
    memory = plain_model.encode(source, source != 0)
    whole = plain_model.decode(torch.tensor([[2], [2], [2]]), memory)
    cache, sentences = plain_model.start(memory), torch.tensor([2])
    cache.keep(sentences)
    hidden = plain_model.decode(torch.tensor([[2]]), memory.keep(sentences), cache)
    torch.testing.assert_close(hidden, whole[2:], **CLOSE)


def test_memory_keeps_sentences_in_the_given_order(source):
    states, sentences = torch.randn(3, 5, 4), torch.tensor([2, 0])
    kept = Memory(states, source != 0).keep(sentences)
    assert torch.equal(kept.states, states[[2, 0]])
    assert torch.equal(kept.mask, (source != 0)[[2, 0]])
    assert Memory(states).keep(sentences).mask is None


def test_the_memory_is_projected_once(plain_model, source, target, monkeypatch):
    memory = plain_model.encode(source)
    projected = []
    project = MultiHeadAttention.project_key_value
    monkeypatch.setattr(
        MultiHeadAttention,
        "project_key_value",
        lambda self, *given: projected.append(self) or project(self, *given),
    )
    in_steps(plain_model, target, memory, [1] * 6)
    assert len(projected) == 2  # once for each of the decoder's layers


def test_a_state_records_the_rows_of_its_step(plain_model, source, target):
    memory = plain_model.encode(source, source != 0)
    whole = AttentionRecord()
    plain_model.decode(target, memory, record=whole)
    cache = plain_model.start(memory)
    plain_model.decode(target[:, :4], memory, cache)
    step = AttentionRecord()
    plain_model.decode(target[:, 4:5], memory, cache, step)
    for recorded, expected in zip(step.decoder, whole.decoder, strict=True):
        torch.testing.assert_close(recorded, expected[:, :, 4:5, :5], **CLOSE)
    for recorded, expected in zip(step.cross, whole.cross, strict=True):
        torch.testing.assert_close(recorded, expected[:, :, 4:5], **CLOSE)


def test_two_searches_do_not_share_a_state(plain_model, source, target):
    memory = plain_model.encode(source)
    expected = plain_model.decode(target[:, :1], memory)
    for _ in range(2):
        torch.testing.assert_close(plain_model.decode(target[:, :1], memory, plain_model.start(memory)), expected)


def test_precisions_and_devices(position, dtype, device, source, target):
    config = TransformerConfig(11, d_model=16, num_heads=4, d_ff=32, position=position, decoder_layers=2)
    model = Transformer(config).eval().to(device, dtype)
    source, target = source.to(device), target.to(device)
    memory = model.encode(source, source != 0)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    stepped = in_steps(model, target, memory, [1] * 6)
    assert stepped.dtype == dtype
    torch.testing.assert_close(stepped, model.decode(target, memory), atol=tolerance, rtol=0)


def test_what_no_beam_descends_from_is_forgotten(plain_model, source):
    """Two beams that both descend from one, again and again, take room for little more than one."""
    memory = plain_model.encode(source, source != 0)
    cache, winners = plain_model.start(memory), torch.tensor([0, 0, 2, 2, 5, 5])
    target = torch.randint(1, 11, (6, 200))
    for position in range(200):
        hidden = plain_model.decode(target[:, position : position + 1], memory, cache)
        cache.reorder(winners)
        target[:, : position + 1] = target[winners, : position + 1]
    torch.testing.assert_close(hidden[winners], plain_model.decode(target, for_each_beam(memory, 2))[:, -1:], **CLOSE)
    assert cache.room < 1.6 * 200


@pytest.mark.parametrize("policy", ["reorder", "keep", "both"])
def test_a_recorded_step_shows_what_each_beam_descends_from(plain_model, source, policy):
    memory, target = plain_model.encode(source, source != 0), torch.randint(1, 11, (6, 60))
    cache, swapped, last = plain_model.start(memory), torch.tensor([1, 0, 2, 2, 5, 4]), torch.tensor([2])
    rows = torch.arange(6)
    for position in range(59):
        plain_model.decode(target[:, position : position + 1], memory, cache)
        if policy != "keep":
            cache.reorder(swapped)
            target[:, : position + 1] = target[swapped, : position + 1]
    if policy != "reorder":
        cache.keep(last)
        memory, rows = memory.keep(last), rows[4:]
    step, whole = AttentionRecord(), AttentionRecord()
    plain_model.decode(target[rows, 59:], memory, cache, step)
    plain_model.decode(target[rows], for_each_beam(memory, 2), record=whole)
    for recorded, expected in zip(step.decoder + step.cross, whole.decoder + whole.cross, strict=True):
        torch.testing.assert_close(recorded, expected[:, :, 59:], **CLOSE)


def test_a_layer_alone_in_steps():
    config = LayerConfig(d_model=12, num_heads=3, d_ff=24, position="rotary", dropout=0.0)
    layer, x, memory = DecoderLayer(config), torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    cache, steps = TransformerCache([layer.cross_attention.project_key_value(memory)], None), []
    for i in range(5):
        steps.append(layer(cache.begin(x[:, i : i + 1]), memory, cache=cache.layers[0]))
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(x, memory), **CLOSE)
