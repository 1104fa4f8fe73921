"""The convolutional model against torch's convolution and the paper's equations."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qkv.nn.convolutional import ConvolutionalConfig, ConvolutionalSeq2Seq, GatedConvolution
from qkv.nn.masks import padding_mask

CLOSE = {"rtol": 0.0, "atol": 1e-12}


def make_model(**options) -> ConvolutionalSeq2Seq:
    defaults = {
        "d_model": 8,
        "tie": "target",
        "dropout": 0.0,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_length": 40,
    }
    return ConvolutionalSeq2Seq(ConvolutionalConfig(9, 11, **(defaults | options))).eval()


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_it_is_torchs_convolution_with_a_gate(kernel_size):
    ours = GatedConvolution(4, kernel_size)
    theirs = nn.Conv1d(4, 8, kernel_size)
    theirs.weight.data = ours.linear.weight.data.unflatten(1, (kernel_size, 4)).transpose(1, 2)
    theirs.bias.data = torch.randn(8)
    ours.linear.bias.data = theirs.bias.data
    x = torch.randn(2, 9, 4)
    expected = theirs(x.transpose(1, 2)).transpose(1, 2)
    value, gate = expected.chunk(2, dim=-1)
    torch.testing.assert_close(ours(x), value * torch.sigmoid(gate), **CLOSE)


def test_a_decoder_layer_is_the_papers():
    """Section 3.3, position by position."""
    model = make_model()
    memory = model.encode(torch.randint(9, (1, 5)))
    layer = model.decoder[0]
    x, embedded = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    output, past = layer(x, embedded, memory, torch.zeros(1, 2, 8))
    padded = F.pad(x, (0, 0, 2, 0))[0]
    half = math.sqrt(0.5)
    for i in range(4):
        window = padded[i : i + 3].flatten()
        value, gate = layer.convolution.linear(window).chunk(2)
        h = value * torch.sigmoid(gate)
        query = half * (layer.query(h) + embedded[0, i])
        weights = torch.softmax(memory.states[0] @ query / math.sqrt(8), dim=0)
        found = math.sqrt(5) * (weights @ memory.values[0])
        expected = half * (x[0, i] + half * (h + layer.found(found)))
        torch.testing.assert_close(output[0, i], expected, **CLOSE)
    torch.testing.assert_close(past, x[:, -2:], **CLOSE)


def test_the_encoder_sees_as_far_as_its_kernels_reach():
    """Two layers of width three: two tokens to either side, no more."""
    model = make_model(position="none")
    source = torch.full((1, 9), 3)
    other = source.clone()
    other[0, 4] = 5
    changed = (model.encode(source).states != model.encode(other).states).any(dim=-1)[0]
    assert changed.tolist() == [2 <= position <= 6 for position in range(9)]


def test_values_are_states_and_what_was_read():
    model = make_model()
    source = torch.randint(9, (2, 5))
    memory = model.encode(source)
    expected = (memory.states + model.source_embedding(source)) * math.sqrt(0.5)
    torch.testing.assert_close(memory.values, expected, **CLOSE)


def test_padding_counts_for_nothing_in_the_scale():
    """√m counts the real tokens of each sentence."""
    model = make_model()
    mask = padding_mask(torch.tensor([6, 3]))
    source, target = torch.randint(9, (2, 6)), torch.randint(11, (2, 4))
    hidden = model.decode(target, model.encode(source, mask))
    torch.testing.assert_close(hidden[1:], model.decode(target[1:], model.encode(source[1:, :3])), **CLOSE)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "none"])
def test_decoding_token_by_token_equals_decoding_at_once(position):
    """Longer than the window, so that what leaves it is really gone."""
    model = make_model(position=position, kernel_size=5)
    memory = model.encode(torch.randint(9, (2, 5)))
    target = torch.randint(11, (2, 17))
    state = model.start(memory)
    steps = [model.decode(target[:, i : i + 1], memory, state) for i in range(17)]
    torch.testing.assert_close(torch.cat(steps, dim=1), model.decode(target, memory), **CLOSE)
    assert [window.shape for window in state.windows] == [(2, 4, 8)] * 2


def test_initial_weights_keep_the_variance():
    """Section 3.5: the standard deviation is √(4p / n) for n inputs that are kept with probability p."""
    convolution = GatedConvolution(256, 3, dropout=0.2)
    assert convolution.linear.weight.std().item() == pytest.approx(math.sqrt(4 * 0.8 / 768), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
        ({"decoder_layers": 0}, "decoder_layers must be at least 1, got 0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"tie": "all"}, "tie=all needs one vocabulary for both sides"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_learned_positions_end():
    assert make_model(max_length=40).longest == 40
    assert make_model(position="sinusoidal").longest is None
    with pytest.raises(ValueError, match="longer than the 40 learned positions"):
        make_model(max_length=40).encode(torch.randint(9, (1, 41)))


def test_dropout_acts_while_training_only():
    model = make_model(dropout=0.5)
    source, target = torch.randint(9, (2, 5)), torch.randint(11, (2, 4))
    assert torch.equal(model(source, target), model(source, target))
    model.train()
    assert not torch.equal(model(source, target), model(source, target))
