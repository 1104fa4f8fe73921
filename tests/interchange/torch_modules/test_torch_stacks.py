"""Encoder, decoder and the whole Transformer equal torch.nn's own, in outputs and in every gradient."""

import warnings

import pytest
import torch
from same_function import (
    CLOSE,
    D_MODEL,
    SOURCE,
    TARGET,
    as_keys,
    assert_same_function,
    config,
    negated,
    randomised,
    torch_transformer,
)
from torch import Tensor, nn

from qkv.interchange.torch_modules import from_torch, to_torch
from qkv.nn import Decoder, Encoder, Transformer, causal_mask, padding_mask


class Stacks(nn.Module):
    """Our two stacks called as one, as torch.nn.Transformer is."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None) -> Tensor:
        memory = self.encoder(source, as_keys(source_mask))
        return self.decoder(target, memory, as_keys(source_mask))


def test_transformer(origin, activation_and_bias, norm_position, source_mask):
    activation, bias = activation_and_bias
    if origin == "torch":
        norm_first = norm_position == "pre"
        theirs = randomised(torch_transformer(activation=activation, norm_first=norm_first, bias=bias))
        ours = Stacks(*from_torch(theirs))
    else:
        model = Transformer(config(activation=activation, bias=bias, norm_position=norm_position, final_norm=True))
        ours = randomised(Stacks(model.encoder, model.decoder))
        theirs = to_torch(model)
    assert_same_function(
        ours,
        theirs,
        lambda source, target: ours(source, target, source_mask),
        lambda source, target: theirs(
            source,
            target,
            tgt_mask=~causal_mask(TARGET),
            src_key_padding_mask=negated(source_mask),
            memory_key_padding_mask=negated(source_mask),
        ),
        [torch.randn(2, SOURCE, D_MODEL), torch.randn(2, TARGET, D_MODEL)],
    )


@pytest.mark.parametrize("final_norm", [True, False])
def test_stacks_alone(origin, norm_position, final_norm, source_mask):
    model = randomised(Transformer(config(norm_position=norm_position, final_norm=final_norm)))
    encoder, decoder = model.encoder, model.decoder
    their_encoder, their_decoder = to_torch(encoder), to_torch(decoder)
    assert (their_encoder.norm is not None) == (their_decoder.norm is not None) == final_norm
    if origin == "torch":
        encoder, decoder = from_torch(their_encoder), from_torch(their_decoder)
    assert_same_function(
        encoder,
        their_encoder,
        lambda x: encoder(x, as_keys(source_mask)),
        lambda x: their_encoder(x, src_key_padding_mask=negated(source_mask)),
        [torch.randn(2, SOURCE, D_MODEL)],
    )
    assert_same_function(
        decoder,
        their_decoder,
        lambda x, memory: decoder(x, memory, as_keys(source_mask)),
        lambda x, memory: their_decoder(
            x, memory, tgt_mask=~causal_mask(TARGET), memory_key_padding_mask=negated(source_mask)
        ),
        [torch.randn(2, TARGET, D_MODEL), torch.randn(2, SOURCE, D_MODEL)],
    )


def test_evaluation_without_gradients_takes_the_same_values(source_mask):
    """torch has a fused path of its own there."""
    theirs = randomised(torch_transformer(nhead=4)).eval()
    ours = Stacks(*from_torch(theirs))
    source, target = torch.randn(2, SOURCE, D_MODEL), torch.randn(2, TARGET, D_MODEL)
    masks = {"src_key_padding_mask": negated(source_mask), "memory_key_padding_mask": negated(source_mask)}
    for module in (theirs, to_torch(from_torch(theirs))):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # nested tensors are a prototype, says torch
            expected = module(source, target, tgt_mask=~causal_mask(TARGET), **masks)
        torch.testing.assert_close(ours(source, target, source_mask), expected, **CLOSE)


def test_an_encoder_in_evaluation_has_values_at_padded_positions_too():
    """Where torch's own, by way of nested tensors, would have zeros."""
    encoder = randomised(Encoder(config(num_heads=4))).eval()
    x, mask = torch.randn(2, SOURCE, D_MODEL), padding_mask(torch.tensor([SOURCE, 3]))
    with torch.no_grad():
        torch.testing.assert_close(to_torch(encoder)(x, src_key_padding_mask=~mask), encoder(x, as_keys(mask)), **CLOSE)


def test_converted_stacks_take_their_places_in_a_model():
    theirs = randomised(torch_transformer())
    model = Transformer(config(final_norm=True))
    names = list(model.state_dict())
    model.encoder, model.decoder = from_torch(theirs)
    assert list(model.state_dict()) == names
    again = to_torch(model)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
