"""A step in a straight line equals a step through the modules."""

import pytest
import torch

from qkv.decoding.cpu.linear_maps import with_linear_maps
from qkv.decoding.cpu.straight import StraightDecoderLayer
from qkv.nn import AttentionRecord, Transformer, TransformerConfig

CLOSE = {"atol": 1e-10, "rtol": 0}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def linear(weight, bias):
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = torch.nn.Parameter(weight.detach())
    made.bias = None if bias is None else torch.nn.Parameter(bias.detach())
    return made


def pair(**options):
    config = TransformerConfig(
        11, **{"d_model": 16, "num_heads": 4, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 2} | options
    )
    model = Transformer(config).eval()
    for parameter in model.parameters():  # norms and biases, too, which begin at one and zero
        parameter.add_(0.3 * torch.randn_like(parameter))
    straight = with_linear_maps(model, linear)
    assert all(type(layer) is StraightDecoderLayer for layer in straight.decoder.layers)
    assert not any(type(layer) is StraightDecoderLayer for layer in model.decoder.layers)
    return model, straight


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_position": "pre"},
        {"residual": False},
        {"residual": False, "norm_position": "pre"},
        {"activation": "gelu"},
        {"activation": "swiglu"},
        {"position": "rotary"},
        {"position": "rotary", "norm_position": "pre", "activation": "swiglu"},
        {"norm": "none"},
        {"norm": "batch"},
        {"bias": False},
        {"scale_scores": False},
        {"causal": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("beam", [1, 3])
def test_beams_on_their_way(options, beam, source):
    model, straight = pair(**options)
    target = torch.randint(1, 11, (3 * beam, 6))
    moves = torch.tensor([row - row % beam + min(1, row % beam) for row in range(3 * beam)])  # the last two are left
    memory, states = model.encode(source, source != 0), []
    for searching in (model, straight):
        state, hidden = searching.start(memory), []
        for first, last in ((0, 2), (2, 3), (3, 4), (4, 6)):
            hidden.append(searching.decode(target[:, first:last], memory, state))
            state.reorder(moves)
        states.append(torch.cat(hidden, dim=1))
    torch.testing.assert_close(states[1], states[0], **CLOSE)


def test_it_records_what_the_modules_record(source, target):
    model, straight = pair()
    memory, records = model.encode(source, source != 0), []
    for searching in (model, straight):
        state, record = searching.start(memory), AttentionRecord()
        searching.decode(target[:, :3], memory, state)
        searching.decode(target[:, 3:4], memory, state, record)
        records.append(record.decoder + record.cross)
    assert len(records[0]) == len(records[1]) == 4
    for found, expected in zip(records[1], records[0], strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
