"""Shapes: from the pass as it ran, for every architecture and option; sums are those of the model."""

import json
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qkv.errors import UserError
from qkv.inspection.shapes import shapes_of_model, shapes_of_preset
from qkv.nn import Transformer, TransformerConfig
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import AttentionRecord

SOURCE, TARGET = [3, 1, 4, 1, 5], [2, 7, 1]
SMALL = {"encoder_layers": 2, "decoder_layers": 2}
VARIANTS = [
    *((name, {}) for name in ARCHITECTURES),
    *(("transformer", {"position": kind}) for kind in ("learned", "rotary", "none")),
    ("transformer", {"norm": "batch", "norm_position": "pre"}),
    ("transformer", {"norm": "none", "residual": False, "scale_scores": False, "causal": False}),
    ("transformer", {"activation": "swiglu", "tie": "none", "bias": False}),
    ("transformer", {"tie": "target", "target_vocab_size": 31}),
    ("gru-attention", {"attention": "general"}),
    ("lstm-attention", {"attention": "dot", "input_feeding": True}),
    ("convolutional", {"kernel_size": 5, "position": "sinusoidal"}),
]


def built(architecture, **options):
    known = ARCHITECTURES[architecture]
    heads = {"num_heads": 4, "d_ff": 24} if architecture == "transformer" else {}
    return known.build(known.config(50, **SMALL | {"d_model": 24} | heads | dict(known.implied) | options))


def numbers(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("architecture", "options"), VARIANTS)
def test_parameters_add_up_to_the_models(architecture, options):
    model = built(architecture, **options)
    found = shapes_of_model(model, SOURCE, TARGET)
    assert found.parameters == found.folded().parameters == numbers(model)
    assert not any(step.what == "not used in this pass" for step in found.steps)


@pytest.mark.parametrize(("architecture", "options"), [v for v in VARIANTS if v[0] in ("transformer", "convolutional")])
def test_multiply_adds_are_those_that_torch_counts(architecture, options):
    model = built(architecture, **options).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        record = AttentionRecord()
        memory = model.encode(torch.tensor([SOURCE]), None, record)
        model.project(model.decode(torch.tensor([TARGET]), memory, None, record))
    found = shapes_of_model(model, SOURCE, TARGET)
    assert 2 * found.multiply_adds == 2 * found.folded().multiply_adds == counter.get_total_flops()


def test_multiply_adds_of_a_small_transformer_counted_by_hand():
    d, wide, vocab, m, n = 8, 20, 11, len(SOURCE), len(TARGET)
    config = TransformerConfig(vocab, d_model=d, num_heads=2, d_ff=wide, encoder_layers=1, decoder_layers=1)
    encoder = m * 3 * d * d + 2 * m * m * d + m * d * d + 2 * m * d * wide
    own = n * 3 * d * d + 2 * n * n * d + n * d * d
    cross = n * d * d + m * 2 * d * d + 2 * n * m * d + n * d * d
    decoder = own + cross + 2 * n * d * wide
    assert shapes_of_model(Transformer(config), SOURCE, TARGET).multiply_adds == encoder + decoder + n * d * vocab


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_multiply_adds_of_a_recurrence_counted_by_hand(cell, gates):
    model, d, state = built(cell), 24, 12
    layer = 2 * gates * (d * state + state * state)  # both directions; the next layer reads both, too
    steps = shapes_of_model(model, SOURCE, TARGET).steps
    (step,) = (step for step in steps if step.path == "encoder.recurrence.kernel")
    assert step.multiply_adds == len(SOURCE) * 2 * layer


def test_a_step_of_a_recurrent_decoder_runs_once_a_token_and_counts_each_time():
    steps = shapes_of_model(built("gru-attention"), SOURCE, TARGET).steps
    (query,) = (step for step in steps if step.path == "decoder.alignment.query")
    assert query.times == len(TARGET)
    assert query.multiply_adds == len(TARGET) * 24 * 24
    assert query.parameters == 24 * 24


def test_axes_are_told_apart_though_their_sizes_are_equal():
    """Four heads and four tokens on both sides; d_model, d_ff and the vocabulary are 24."""
    config = TransformerConfig(24, d_model=24, num_heads=4, d_ff=24, encoder_layers=1, decoder_layers=1)
    steps = shapes_of_model(Transformer(config), [1, 2, 3, 4], [1, 2, 3, 4]).steps
    scores = {step.path: step.axes for step in steps if step.formula == "Q·Kᵀ"}
    assert scores == {
        "encoder.layers.0.attention": ("batch", "head", "source", "source"),
        "decoder.layers.0.attention": ("batch", "head", "target", "target"),
        "decoder.layers.0.cross_attention": ("batch", "head", "target", "source"),
    }
    axes = {step.path: step.axes for step in steps}
    assert axes["encoder.layers.0.feed_forward.wide"] == ("batch", "source", "d_ff")
    assert axes["encoder.layers.0.feed_forward.narrow"] == ("batch", "source", "d_model")
    assert axes["encoder.layers.0.attention.projection"] == ("batch", "source", "3·d_model")
    assert axes["output"] == ("batch", "target", "vocab")


@pytest.mark.parametrize(("architecture", "options"), VARIANTS)
def test_every_axis_that_grows_with_the_input_has_its_name(architecture, options):
    """Sizes along axes of one name are the same in a pass, and change with the sentence as the name says."""
    model = built(architecture, **options)
    short, long = (shapes_of_model(model, SOURCE[:m], TARGET[:n]).steps for m, n in ((3, 2), (5, 3)))
    assert [step.axes for step in short] == [step.axes for step in long]
    for one, other in zip(short, long, strict=True):
        for axis, size, grown in zip(one.axes, other.shape, one.shape, strict=True):
            base = axis.partition("+")[0]
            growth = {"source": 2, "target": 1, "batch·source": 2, "batch·target": 1}.get(base, 0)
            assert size - grown == growth, (one.path, one.what, axis)


def test_what_a_projection_makes_is_told_by_whose_it_is():
    found = {
        (step.path.partition(".0.")[2], step.what)
        for step in shapes_of_model(built("transformer"), SOURCE, TARGET).steps
    }
    assert {what for path, what in found if path == "attention.projection"} == {
        "project to queries, keys and values at once"
    }
    assert {what for path, what in found if path == "cross_attention.projection"} == {
        "project to queries",
        "project the memory to keys and values",
    }


def test_shapes_are_those_that_modules_return():
    model = built("transformer").eval()
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: tuple(output.shape)}))
    model(torch.tensor([SOURCE]), torch.tensor([TARGET]))
    found = {step.path: step.shape for step in shapes_of_model(model, SOURCE, TARGET).steps}
    assert len(seen) > 20
    assert {name: found[name] for name in seen} == seen


def test_more_heads_give_another_table():
    one, other = (shapes_of_preset("transformer", "tiny", {"num_heads": heads}) for heads in (4, 8))
    assert one.parameters == other.parameters
    assert "(batch 1, head 4, source 5, d_head 32)" in one.to_text()
    assert "(batch 1, head 8, source 5, d_head 16)" in other.to_text()


def test_masks_and_scaling_are_there_only_if_they_ran():
    def whats(**options):
        return {step.what for step in shapes_of_model(built("transformer", **options), SOURCE, TARGET).steps}

    assert "hide what may not be seen" in whats()
    assert "scale by 1/√d_head" in whats()
    assert "hide what may not be seen" not in whats(causal=False)
    assert "add the sublayer's input" not in whats(residual=False)
    assert not any("d_head" in what for what in whats(scale_scores=False))


def test_layers_that_differ_are_not_folded():
    model = built("transformer")
    model.encoder.layers[1].feed_forward.wide.bias = None
    found = shapes_of_model(model, SOURCE, TARGET).folded()
    places = [step.place for step in found.steps]
    assert "encoder layer 1, feed_forward.wide" in places
    assert "encoder layer 2, feed_forward.wide" in places
    assert "decoder layers 1–2, feed_forward.wide" in places
    named = dict(model.named_modules())
    assert all(step.path in named for step in found.steps if step.path.startswith("decoder")), (
        "paths are the model's own"
    )


def test_every_table_counts_layers_from_one():
    for found in (shapes_of_preset("transformer", "tiny"), shapes_of_preset("transformer", "tiny").folded()):
        for text in (found.to_text(), found.to_markdown(), found.to_html(), found._repr_html_()):
            assert "encoder layer" in text
            assert not re.search(r"layers?\W0", text)


def test_the_model_is_left_as_it_was():
    model = built("transformer").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    shapes_of_model(model, SOURCE, TARGET)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_text_markdown_html_and_data_say_the_same():
    found = shapes_of_preset("transformer", "tiny", text="<b>a</b> | b").folded()
    for text in (found.to_text(), found.to_markdown(), found.to_html(), found._repr_html_()):
        assert f"{found.parameters:,}" in text
        assert f"{found.multiply_adds:,}" in text
        assert text.count("split into heads") == 4
    assert "<b>" not in found.to_html()
    rows = [line for line in found.to_markdown().splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}
    assert len(rows) == len(found.steps) + 3
    data = json.loads(json.dumps(found.to_data()))
    assert data["parameters"] == sum(step["parameters"] for step in data["steps"])


def test_the_users_mistakes():
    with pytest.raises(UserError, match=r"unknown architecture 'transfomer'; did you mean transformer\?"):
        shapes_of_preset("transfomer")
    with pytest.raises(UserError, match=r"unknown key model\.heads"):
        shapes_of_preset("transformer", "tiny", {"heads": 2})
    with pytest.raises(UserError, match="6 tokens are more than the model has positions for"):
        shapes_of_preset("transformer", "tiny", {"position": "learned", "max_length": 4}, text="a b c d e")
