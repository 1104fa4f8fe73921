"""Recurrent models against torch's modules, the papers' equations and what they are meant to show."""

import math

import pytest
import torch
from torch import nn

from qkv.nn.masks import padding_mask
from qkv.nn.recurrence import Recurrence
from qkv.nn.recurrent import RecurrentConfig, RecurrentSeq2Seq
from qkv.nn.recurrent_attention import AdditiveAttention, DotAttention, GeneralAttention

CLOSE = {"rtol": 0.0, "atol": 1e-12}
KERNELS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def make_model(**options) -> RecurrentSeq2Seq:
    return RecurrentSeq2Seq(
        RecurrentConfig(9, 11, **({"d_model": 8, "tie": "target", "dropout": 0.0} | options))
    ).eval()


# Against torch


@pytest.mark.parametrize("cell", KERNELS)
def test_the_encoder_is_torchs_bidirectional_kernel(cell):
    model = make_model(cell=cell, encoder_layers=2)
    kernel = KERNELS[cell](8, 4, 2, batch_first=True, bidirectional=True)
    kernel.load_state_dict(model.encoder.recurrence.kernel.state_dict())
    lengths = [5, 2, 4]
    mask = padding_mask(torch.tensor(lengths))
    source = torch.randint(9, mask.shape)
    memory = model.encode(source, mask)
    for row, length in enumerate(lengths):
        embedded = model.source_embedding.tokens.weight[source[row, :length]] * math.sqrt(8)
        outputs, hidden = kernel(embedded[None])
        last = (hidden[0] if cell == "lstm" else hidden)[-2:, 0]
        torch.testing.assert_close(memory.states[row, :length], outputs[0], **CLOSE)
        torch.testing.assert_close(memory.summary[row], last.flatten(), **CLOSE)
        assert torch.all(memory.states[row, length:] == 0.0)


@pytest.mark.parametrize("cell", KERNELS)
def test_a_recurrence_computes_its_papers_equations(cell):
    """The cells spelled out, with torch's order of the gates."""
    recurrence, x = Recurrence(cell, 3, 4), torch.randn(2, 5, 3)
    weights = dict(recurrence.kernel.named_parameters())
    h, c = torch.zeros(2, 4), torch.zeros(2, 4)
    expected = []
    for step in x.unbind(dim=1):
        gates_x = step @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates_h = h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        if cell == "rnn":
            h = torch.tanh(gates_x + gates_h)
        elif cell == "gru":
            reset, update, new = zip(gates_x.chunk(3, dim=-1), gates_h.chunk(3, dim=-1), strict=True)
            update = torch.sigmoid(sum(update))
            h = (1 - update) * torch.tanh(new[0] + torch.sigmoid(sum(reset)) * new[1]) + update * h
        else:
            enter, forget, cell_gate, leave = (gates_x + gates_h).chunk(4, dim=-1)
            c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(cell_gate)
            h = torch.sigmoid(leave) * torch.tanh(c)
        expected.append(h)
    outputs, hidden = recurrence(x)
    torch.testing.assert_close(outputs, torch.stack(expected, dim=1), **CLOSE)
    torch.testing.assert_close(hidden[0][0], h, **CLOSE)
    if cell == "lstm":
        torch.testing.assert_close(hidden[1][0], c, **CLOSE)


def test_forget_gates_begin_open():
    recurrence = Recurrence("lstm", 3, 4, layers=2, bidirectional=True)
    for suffix in ("l0", "l1", "l0_reverse", "l1_reverse"):
        both = getattr(recurrence.kernel, f"bias_ih_{suffix}") + getattr(recurrence.kernel, f"bias_hh_{suffix}")
        assert torch.all(both[4:8] == 1.0)
        assert not torch.any(both[:4] == 1.0)


# Scores


def test_scores_are_the_papers():
    query, states = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    for alignment in (AdditiveAttention(4), DotAttention(), GeneralAttention(4)):
        scores = alignment.score(query, alignment.project(states))
        for i in range(2):
            for j in range(3):
                s, h = query[0, i], states[0, j]
                if isinstance(alignment, AdditiveAttention):
                    inner = alignment.query.weight @ s + alignment.key.weight @ h + alignment.key.bias
                    expected = alignment.energy.weight[0] @ torch.tanh(inner)
                elif isinstance(alignment, GeneralAttention):
                    expected = s @ (alignment.key.weight @ h)
                else:
                    expected = s @ h
                torch.testing.assert_close(scores[0, i, j], expected, **CLOSE)


def test_what_is_found_is_the_weighted_mean_of_the_states():
    alignment, query, states = AdditiveAttention(4), torch.randn(6, 2, 4), torch.randn(3, 5, 4)
    mask = padding_mask(torch.tensor([5, 3, 1]))
    found, weights = alignment(query, alignment.project(states), states, mask)  # two beams for each sentence
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(6, 2), **CLOSE)
    for row in range(6):
        torch.testing.assert_close(found[row], weights[row] @ states[row // 2], **CLOSE)
        assert torch.all(weights[row, :, mask[row // 2].sum() :] == 0.0)


# What the decoders know


def test_a_fixed_context_is_all_that_the_decoder_sees():
    """Other states with the same summary give the same output; with attention they do not."""
    target = torch.randint(11, (2, 4))
    for attention, blind in (("none", True), ("additive", False), ("general", False), ("dot", False)):
        model = make_model(attention=attention)
        memory = model.encode(torch.randint(9, (2, 5)))
        before = model.decode(target, memory)
        memory.states = torch.randn_like(memory.states)
        assert torch.allclose(model.decode(target, memory), before) is blind, attention
        memory.summary = torch.randn_like(memory.summary)
        assert not torch.allclose(model.decode(target, memory), before)


def test_input_feeding_hands_on_what_was_attended_to():
    torch.manual_seed(1)
    target = torch.randint(11, (1, 3))
    for feeding in (False, True):
        model = make_model(attention="general", input_feeding=feeding, decoder_layers=1)
        memory = model.encode(torch.randint(9, (1, 5)))
        state = model.start(memory)
        model.decode(target[:, :1], memory, state)
        memory.states = memory.states.flip(1)  # the keys are in the state already: only what is gathered changes
        changed = model.start(memory)
        changed.hidden, changed.key = model.start(memory).hidden, state.key
        model.decode(target[:, :1], memory, changed)
        assert torch.equal(state.hidden[0], changed.hidden[0])
        model.decode(target[:, 1:2], memory, state)
        model.decode(target[:, 1:2], memory, changed)
        assert torch.allclose(state.hidden[0], changed.hidden[0]) is not feeding


def test_the_state_does_not_grow():
    model = make_model()
    memory = model.encode(torch.randint(9, (2, 5)))
    state = model.start(memory)
    sizes = set()
    for _ in range(3):
        model.decode(torch.randint(11, (2, 4)), memory, state)
        sizes.add(sum(part.numel() for part in (*state.hidden, state.key)))
    assert len(sizes) == 1


def test_order_matters_without_any_positions():
    model = make_model()
    source = torch.tensor([[1, 2, 3, 4]])
    assert not torch.allclose(model.encode(source).states.flip(1), model.encode(source.flip(1)).states)


# Configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 7}, "d_model must be even"),
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"encoder_layers": 0}, "encoder_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"input_feeding": True}, "input_feeding is for dot and general attention, not additive"),
        ({"tie": "all"}, "tie=all needs one vocabulary for both sides"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


@pytest.mark.parametrize("tie", ["none", "target", "all"])
def test_tying(tie):
    model = RecurrentSeq2Seq(RecurrentConfig(11, d_model=8, tie=tie))
    source, target = model.source_embedding.tokens.weight, model.target_embedding.tokens.weight
    assert (model.output.weight is target) == (tie != "none")
    assert (source is target) == (tie == "all")


def test_dropout_acts_while_training_only():
    for attention in ("none", "additive", "general"):
        model = make_model(attention=attention, dropout=0.5)
        source, target = torch.randint(9, (2, 5)), torch.randint(11, (2, 4))
        assert torch.equal(model(source, target), model(source, target))
        model.train()
        assert not torch.equal(model(source, target), model(source, target))
