"""What holds for every architecture: the contract, its equalities and its gradients, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.decoding.beam import beam_search
from qkv.decoding.greedy import greedy
from qkv.decoding.options import SearchOptions
from qkv.decoding.scoring import score_targets
from qkv.decoding.search import search
from qkv.decoding.steps import Progress
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.masks import padding_mask
from qkv.nn.seq2seq import AttentionRecord, Seq2Seq
from qkv.text.batches import Batch

VOCAB_SIZE, TARGET_VOCAB_SIZE = 9, 11
PAD, BOS, EOS = 0, 1, 2
CLOSE = {"rtol": 0.0, "atol": 1e-10}

# Every architecture by name, and the variants whose code differs.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "gru, one layer": ("gru", {"encoder_layers": 1, "decoder_layers": 1}),
    "gru-attention, one layer": ("gru-attention", {"encoder_layers": 1, "decoder_layers": 1}),
    "lstm-attention, three layers": ("lstm-attention", {"encoder_layers": 3, "decoder_layers": 3}),
    "rnn-attention, dot": ("rnn-attention", {"attention": "dot"}),
    "gru-attention, general": ("gru-attention", {"attention": "general"}),
    "lstm-attention, general, fed": ("lstm-attention", {"attention": "general", "input_feeding": True}),
    "convolutional, sinusoidal": ("convolutional", {"position": "sinusoidal"}),
    "convolutional, kernel 5": ("convolutional", {"kernel_size": 5, "position": "none"}),
    "convolutional, kernel 1": ("convolutional", {"kernel_size": 1}),
    "transformer, batch norm": ("transformer", {"norm": "batch"}),
    "transformer, pre batch norm": ("transformer", {"norm": "batch", "norm_position": "pre"}),
    "transformer, no norm": ("transformer", {"norm": "none"}),
    "transformer, no residual": ("transformer", {"residual": False}),
    "transformer, unscaled": ("transformer", {"scale_scores": False}),
    "transformer, rotary": ("transformer", {"position": "rotary"}),
    "transformer, no position": ("transformer", {"position": "none"}),
}


def make_model(architecture: str, seed: int = 0, **options: Any) -> Seq2Seq:
    """A small model, its weights made large enough that every part of it shows in the output."""
    kind = ARCHITECTURES[architecture]
    known = {"d_model": 8, "num_heads": 2, "d_ff": 12, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
    own = {name: value for name, value in (known | {"max_length": 40}).items() if name in kind.option_names()}
    torch.manual_seed(seed)
    model = kind.build(
        kind.config(VOCAB_SIZE, TARGET_VOCAB_SIZE, **kind.implied, **(own | {"tie": "target"} | options))
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            buffer.add_(torch.rand_like(buffer) if "variance" in name else 0.2 * torch.randn_like(buffer))
    return model.eval()


@pytest.fixture(params=VARIANTS)
def model(request) -> Seq2Seq:
    architecture, options = VARIANTS[request.param]
    return make_model(architecture, **options)


def random_tokens(*shape: int, vocab: int = VOCAB_SIZE) -> Tensor:
    return torch.randint(3, vocab, shape)


def padded_source(lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = padding_mask(torch.tensor(lengths))
    return random_tokens(*mask.shape).masked_fill(~mask, PAD), mask


# The contract


def test_shapes(model):
    source, mask = padded_source([5, 3, 1])
    memory = model.encode(source, mask)
    assert memory.states.shape == (3, 5, 8)
    hidden = model.decode(random_tokens(3, 4, vocab=TARGET_VOCAB_SIZE), memory)
    assert hidden.shape == (3, 4, model.output.in_features)
    assert model.project(hidden).shape == (3, 4, TARGET_VOCAB_SIZE)


def test_the_source_matters_and_so_does_every_earlier_target_token(model):
    source, target = random_tokens(1, 5), random_tokens(1, 4, vocab=TARGET_VOCAB_SIZE)
    logits = model(source, target)
    for position in range(5):
        other = source.clone()
        other[0, position] = 3 + (source[0, position] - 2) % (VOCAB_SIZE - 3)
        assert not torch.equal(model(other, target), logits)
    for position in range(4):
        other = target.clone()
        other[0, position] = 3 + (target[0, position] - 2) % (TARGET_VOCAB_SIZE - 3)
        changed = model(source, other)
        torch.testing.assert_close(changed[:, :position], logits[:, :position], **CLOSE)  # no look into the future
        assert not torch.equal(changed[:, position], logits[:, position])


# Gradients


def test_gradients_are_those_of_finite_differences(model):
    source, mask = padded_source([4, 2])
    target = random_tokens(2, 3, vocab=TARGET_VOCAB_SIZE)
    weighting = torch.randn(2, 3, TARGET_VOCAB_SIZE)
    parameters = list(model.parameters())
    direction = [torch.randn_like(parameter) for parameter in parameters]

    def loss() -> Tensor:
        return (model(source, target, mask) * weighting).sum()

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), "a part that nothing uses"
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step = 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(sign * step * d)
            values.append(loss())
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.sub_(sign * step * d)
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), expected, rtol=1e-5, atol=1e-6)


# Equalities


def test_padded_equals_unpadded(model):
    lengths = [6, 4, 1]
    source, mask = padded_source(lengths)
    target = random_tokens(3, 5, vocab=TARGET_VOCAB_SIZE)
    together = model(source, target, mask)
    for row, length in enumerate(lengths):
        alone = model(source[row : row + 1, :length], target[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)


@pytest.mark.parametrize("chunks", [[1] * 6, [2, 1, 3]])
def test_cached_equals_uncached(model, chunks):
    source, mask = padded_source([5, 2])
    target = random_tokens(2, 6, vocab=TARGET_VOCAB_SIZE)
    memory = model.encode(source, mask)
    state = model.start(memory)
    hidden = []
    for chunk in target.split(chunks, dim=1):
        hidden.append(model.decode(chunk, memory, state))
    assert state.length == 6
    torch.testing.assert_close(torch.cat(hidden, dim=1), model.decode(target, memory), **CLOSE)


def test_beams_move_and_sentences_leave(model):
    """Rows are followed by hand: which sentence each belongs to and what it has decoded so far."""
    source, mask = padded_source([5, 3, 4])
    first, second, third = (random_tokens(rows, 1, vocab=TARGET_VOCAB_SIZE) for rows in (3, 6, 4))
    memory = model.encode(source, mask)
    state = model.start(memory)
    model.decode(first, memory, state)
    state.reorder(torch.tensor([0, 0, 1, 1, 2, 2]))  # a beam of two
    model.decode(second, memory, state)
    kept = torch.tensor([2, 0])
    memory = memory.keep(kept)
    state.keep(kept)  # now rows 4, 5, 0, 1 of before
    state.reorder(torch.tensor([1, 1, 2, 3]))
    rows = [5, 5, 0, 1]
    history = torch.cat([first[[2, 2, 0, 0]], second[rows], third], dim=1)
    expected = model.decode(history, model.encode(source[[2, 2, 0, 0]], mask[[2, 2, 0, 0]]))
    torch.testing.assert_close(model.decode(third, memory, state), expected[:, -1:], **CLOSE)


# Search

IDS = {"bos": BOS, "eos": EOS, "pad": PAD}


@pytest.mark.parametrize("beam", [1, 3])
def test_searched_in_a_batch_equals_searched_alone(model, beam):
    options = SearchOptions(beam=beam, n_best=beam)
    source, mask = padded_source([7, 4, 4, 2, 1])
    together = search(model, source, mask, **IDS, options=options)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        (alone,) = search(model, source[row : row + 1, :length], None, **IDS, options=options)
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[row]], abs=1e-9)


def test_a_beam_of_one_equals_greedy(model):
    source, mask = padded_source([7, 4, 2])
    by_beam = beam_search(Progress(model, source, mask, **IDS, options=SearchOptions(beam=1)))
    for (one,), other in zip(by_beam, greedy(Progress(model, source, mask, **IDS)), strict=True):
        assert one.tokens == other.tokens
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-9)


def test_a_hypothesis_is_as_probable_as_a_forced_decode_of_it(model):
    source, mask = padded_source([6, 3])
    for row, found in enumerate(
        beam_search(Progress(model, source, mask, **IDS, options=SearchOptions(beam=4, n_best=4)))
    ):
        for hypothesis in found:
            ended = [*hypothesis.tokens, *([EOS] if hypothesis.finished else [])]
            target_input = torch.tensor([[BOS, *ended[:-1]]])
            one = slice(row, row + 1)
            batch = Batch(source[one], mask[one], target_input, torch.tensor([ended]), None, len(ended))
            scores = score_targets(model, batch)
            assert scores.sum().item() == pytest.approx(hypothesis.log_probability, abs=1e-9)


# Attention


def test_recording_attention_changes_nothing_and_rows_sum_to_one(model):
    source, mask = padded_source([5, 3])
    target = random_tokens(2, 4, vocab=TARGET_VOCAB_SIZE)
    record = AttentionRecord()
    memory = model.encode(source, mask, record)
    hidden = model.decode(target, memory, record=record)
    torch.testing.assert_close(hidden, model.decode(target, model.encode(source, mask)), **CLOSE)
    for weights in record.cross:
        assert weights.shape[0] == 2
        assert weights.shape[2:] == (4, 5)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:3]), **CLOSE)
        assert torch.all(weights[1, :, :, 3:] == 0.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gru", 0), ("gru-attention", 1), ("gru-attention, general", 1), ("convolutional", 2), ("transformer", 2)],
)
def test_which_layers_attend_to_the_source(name, expected):
    architecture, options = VARIANTS[name]
    model, record = make_model(architecture, **options), AttentionRecord()
    model.decode(random_tokens(1, 2), model.encode(random_tokens(1, 3), None, record), record=record)
    assert len(record.cross) == expected


def test_recorded_step_by_step_with_beams_equals_recorded_at_once(model):
    source = random_tokens(2, 5)
    target = random_tokens(4, 3, vocab=TARGET_VOCAB_SIZE)
    memory = model.encode(source)
    state = model.start(memory)
    state.reorder(torch.tensor([0, 0, 1, 1]))
    steps = []
    for step in range(3):
        record = AttentionRecord()
        model.decode(target[:, step : step + 1], memory, state, record)
        steps.append(record.cross)
    whole = AttentionRecord()
    model.decode(target, model.encode(source[[0, 0, 1, 1]]), record=whole)
    for layer, weights in enumerate(whole.cross):
        torch.testing.assert_close(torch.cat([step[layer] for step in steps], dim=2), weights, **CLOSE)
