"""A head that is off adds nothing; when it is on again, nothing has changed."""

import pytest
import torch

from qkv.errors import UserError
from qkv.inspection.ablation import Head, head_counts, heads_off
from qkv.nn import AttentionRecord, Transformer, TransformerConfig
from qkv.nn.convolutional import ConvolutionalConfig, ConvolutionalSeq2Seq
from qkv.nn.recurrent import RecurrentConfig, RecurrentSeq2Seq

SOURCE, TARGET = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[1, 7, 8]])


def transformer():
    return Transformer(TransformerConfig(20, d_model=16, num_heads=4, d_ff=32, encoder_layers=2, decoder_layers=2))


MODELS = {
    "transformer": transformer,
    "additive": lambda: RecurrentSeq2Seq(RecurrentConfig(20, d_model=16)),
    "general": lambda: RecurrentSeq2Seq(RecurrentConfig(20, d_model=16, attention="general", input_feeding=True)),
    "convolutional": lambda: ConvolutionalSeq2Seq(
        ConvolutionalConfig(20, d_model=16, encoder_layers=2, decoder_layers=2)
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().double().eval()


@torch.no_grad()
def logits(model):
    return model(SOURCE, TARGET)


def test_every_head_matters_and_comes_back(model):
    before = logits(model)
    counts = head_counts(model)
    assert counts
    for kind, layers in counts.items():
        for layer, heads in enumerate(layers, start=1):
            for head in range(1, heads + 1):
                with heads_off(model, [Head(kind, layer, head)]):
                    assert not torch.allclose(logits(model), before)
                assert torch.equal(logits(model), before)


def test_counts_are_those_of_the_record(model):
    record = AttentionRecord()
    with torch.no_grad():
        model.decode(TARGET, model.encode(SOURCE, None, record), None, record)
    for kind in ("encoder", "decoder", "cross"):
        assert [weights.shape[1] for weights in getattr(record, kind)] == head_counts(model).get(kind, [])


def test_off_equals_a_head_whose_values_are_erased():
    torch.manual_seed(0)
    model = transformer().double().eval()
    with heads_off(model, [Head("cross", 2, 3)]):
        off = logits(model)
    attention = model.decoder.layers[1].cross_attention
    with torch.no_grad():
        attention.output.weight[:, 8:12] = 0
    assert torch.allclose(logits(model), off)


def test_all_comes_back_after_an_error(model):
    before = logits(model)
    with pytest.raises(RuntimeError), heads_off(model, [Head("cross", 1, 1)]):
        raise RuntimeError
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("head", [Head("cross", 9, 1), Head("cross", 1, 9), Head("cross", 1, 0), Head("cross", 0, 1)])
def test_a_head_that_is_not_there(model, head):
    before = logits(model)
    with pytest.raises(UserError, match="this model has no cross layer"), heads_off(model, [Head("cross", 1, 1), head]):
        pass
    assert torch.equal(logits(model), before)


def test_a_model_without_attention():
    model = RecurrentSeq2Seq(RecurrentConfig(20, d_model=16, attention="none"))
    assert head_counts(model) == {}
    with pytest.raises(UserError, match="it has no attention"), heads_off(model, [Head("cross", 1, 1)]):
        pass
