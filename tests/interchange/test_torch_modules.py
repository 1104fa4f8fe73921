"""The same weights, the same function: ours against torch.nn's own modules, in outputs and in every gradient."""

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from qkv.interchange.torch_modules import from_torch, to_torch
from qkv.nn import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    MultiHeadAttention,
    Transformer,
    TransformerConfig,
    causal_mask,
    padding_mask,
)

D_MODEL, HEADS, D_FF, SOURCE, TARGET = 12, 3, 20, 5, 4
CLOSE = {"atol": 1e-10, "rtol": 0}


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomised(module: nn.Module) -> nn.Module:
    """With biases and norms too away from the zeros and ones that they begin with."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def gradients_as_ours(theirs: nn.Module) -> dict[str, Tensor]:
    """The gradients of a torch module by our names: they are converted as the weights are."""
    holder = copy.deepcopy(theirs)
    for parameter, original in zip(holder.parameters(), theirs.parameters(), strict=True):
        parameter.data = original.grad
    converted = from_torch(holder)
    stacks = (
        dict(zip(("encoder", "decoder"), converted, strict=True)) if isinstance(converted, tuple) else {"": converted}
    )
    return {
        f"{stack}.{name}".lstrip("."): parameter.data
        for stack, module in stacks.items()
        for name, parameter in module.named_parameters()
    }


def assert_same_function(
    ours: nn.Module,
    theirs: nn.Module,
    call_ours: Callable[..., Tensor],
    call_theirs: Callable[..., Tensor],
    inputs: list[Tensor],
) -> None:
    """Equal outputs, and equal gradients of every input and every parameter, in a random direction."""
    own_inputs, their_inputs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    output, their_output = call_ours(*own_inputs), call_theirs(*their_inputs)
    torch.testing.assert_close(output, their_output, **CLOSE)
    direction = torch.randn_like(output)
    output.backward(direction)
    their_output.backward(direction)
    for own, their in zip(own_inputs, their_inputs, strict=True):
        torch.testing.assert_close(own.grad, their.grad, **CLOSE)
    expected, actual = gradients_as_ours(theirs), gradients(ours)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def converted(origin: str, ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]) -> tuple:
    """Our module and torch's, one of them made from the other."""
    if origin == "torch":
        module = randomised(theirs())
        return from_torch(module), module
    module = randomised(ours())
    return module, to_torch(module)


@pytest.fixture(params=["torch", "qkv"])
def origin(request) -> str:
    """Which of the two modules is converted into the other."""
    return request.param


@pytest.fixture(params=[("relu", True), ("gelu", False)], ids=["relu-bias", "gelu-no-bias"])
def activation_and_bias(request) -> tuple[str, bool]:
    return request.param


@pytest.fixture(params=["post", "pre"])
def norm_position(request) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["padded", "unpadded"])
def source_mask(request) -> Tensor | None:
    """True = a real token, or None."""
    return padding_mask(torch.tensor([SOURCE, 3])) if request.param else None


@pytest.fixture(params=[True, False], ids=["causal", "free"])
def causal(request) -> bool:
    return request.param


def as_keys(mask: Tensor | None) -> Tensor | None:
    """Ours: shared by all queries."""
    return None if mask is None else mask[:, None]


def negated(mask: Tensor | None) -> Tensor | None:
    """Theirs: True = may not attend."""
    return None if mask is None else ~mask


class TestMultiHeadAttention:
    @staticmethod
    def pair(origin: str, bias: bool = True) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
        return converted(
            origin,
            lambda: MultiHeadAttention(D_MODEL, HEADS, bias=bias),
            lambda: nn.MultiheadAttention(D_MODEL, HEADS, bias=bias, batch_first=True),
        )

    @pytest.mark.parametrize("bias", [True, False])
    def test_self_attention(self, origin, bias, source_mask, causal):
        ours, theirs = self.pair(origin, bias)
        attn_mask = ~causal_mask(SOURCE) if causal else None
        assert_same_function(
            ours,
            theirs,
            lambda x: ours(x, mask=as_keys(source_mask), causal=causal)[0],
            lambda x: theirs(x, x, x, key_padding_mask=negated(source_mask), attn_mask=attn_mask)[0],
            [torch.randn(2, SOURCE, D_MODEL)],
        )

    def test_query_key_and_value_apart(self, origin, source_mask):
        ours, theirs = self.pair(origin)
        assert_same_function(
            ours,
            theirs,
            lambda query, key, value: ours(query, key, value, as_keys(source_mask))[0],
            lambda query, key, value: theirs(query, key, value, key_padding_mask=negated(source_mask))[0],
            [torch.randn(2, length, D_MODEL) for length in (TARGET, SOURCE, SOURCE)],
        )

    def test_a_mask_of_its_own_for_each_query(self, origin):
        ours, theirs = self.pair(origin)
        mask = torch.rand(2, TARGET, SOURCE) < 0.6
        mask[:, :, 0] = True  # torch's queries must see something
        assert_same_function(
            ours,
            theirs,
            lambda query, memory: ours(query, memory, mask=mask)[0],
            lambda query, memory: theirs(query, memory, memory, attn_mask=~mask.repeat_interleave(HEADS, 0))[0],
            [torch.randn(2, TARGET, D_MODEL), torch.randn(2, SOURCE, D_MODEL)],
        )

    def test_the_weights_of_every_head(self, origin, source_mask, causal):
        ours, theirs = self.pair(origin)
        x = torch.randn(2, SOURCE, D_MODEL)
        _, weights = ours(x, mask=as_keys(source_mask), causal=causal, return_weights=True)
        _, expected = theirs(
            x,
            x,
            x,
            key_padding_mask=negated(source_mask),
            attn_mask=~causal_mask(SOURCE) if causal else None,
            need_weights=True,
            average_attn_weights=False,
        )
        torch.testing.assert_close(weights, expected, **CLOSE)

    def test_the_path_with_weights_has_the_same_gradients(self, origin, source_mask):
        ours, theirs = self.pair(origin)
        assert_same_function(
            ours,
            theirs,
            lambda x: ours(x, mask=as_keys(source_mask), return_weights=True)[0],
            lambda x: theirs(x, x, x, key_padding_mask=negated(source_mask))[0],
            [torch.randn(2, SOURCE, D_MODEL)],
        )


LAYER = {"d_model": D_MODEL, "num_heads": HEADS, "d_ff": D_FF}


def torch_layer_options(activation: str, norm_position: str, bias: bool = True) -> dict:
    return {
        "d_model": D_MODEL,
        "nhead": HEADS,
        "dim_feedforward": D_FF,
        "dropout": 0.0,
        "activation": activation,
        "norm_first": norm_position == "pre",
        "batch_first": True,
        "bias": bias,
    }


def test_encoder_layer(origin, activation_and_bias, norm_position, source_mask, causal):
    activation, bias = activation_and_bias
    ours, theirs = converted(
        origin,
        lambda: EncoderLayer(**LAYER, activation=activation, norm_position=norm_position, bias=bias),
        lambda: nn.TransformerEncoderLayer(**torch_layer_options(activation, norm_position, bias)),
    )
    if causal:
        own_mask = causal_mask(SOURCE)[None] if source_mask is None else causal_mask(SOURCE) & source_mask[:, None]
    else:
        own_mask = as_keys(source_mask)
    assert_same_function(
        ours,
        theirs,
        lambda x: ours(x, own_mask),
        lambda x: theirs(x, ~causal_mask(SOURCE) if causal else None, src_key_padding_mask=negated(source_mask)),
        [torch.randn(2, SOURCE, D_MODEL)],
    )


@pytest.mark.parametrize(
    "target_mask", [None, padding_mask(torch.tensor([TARGET, 2]))], ids=["target-unpadded", "target-padded"]
)
def test_decoder_layer(origin, activation_and_bias, norm_position, source_mask, target_mask):
    activation, bias = activation_and_bias
    ours, theirs = converted(
        origin,
        lambda: DecoderLayer(**LAYER, activation=activation, norm_position=norm_position, bias=bias),
        lambda: nn.TransformerDecoderLayer(**torch_layer_options(activation, norm_position, bias)),
    )
    assert_same_function(
        ours,
        theirs,
        lambda x, memory: ours(x, memory, as_keys(source_mask), mask=as_keys(target_mask)),
        lambda x, memory: theirs(
            x,
            memory,
            tgt_mask=~causal_mask(TARGET),
            tgt_key_padding_mask=negated(target_mask),
            memory_key_padding_mask=negated(source_mask),
        ),
        [torch.randn(2, TARGET, D_MODEL), torch.randn(2, SOURCE, D_MODEL)],
    )


class Stacks(nn.Module):
    """Our two stacks called as one, as torch.nn.Transformer is."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None) -> Tensor:
        memory = self.encoder(source, as_keys(source_mask))
        return self.decoder(target, memory, as_keys(source_mask))


def config(**changes) -> TransformerConfig:
    layers = {"encoder_layers": 3, "decoder_layers": 2}
    return TransformerConfig(7, **(LAYER | layers | {"dropout": 0.0} | changes))


def torch_transformer(**changes) -> nn.Transformer:
    options = torch_layer_options("relu", "post") | {"num_encoder_layers": 3, "num_decoder_layers": 2} | changes
    with warnings.catch_warnings():  # pre-norm has no fast path there, says torch
        warnings.simplefilter("ignore", UserWarning)
        return nn.Transformer(**options)


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


THEIRS = {
    "attention": lambda: nn.MultiheadAttention(D_MODEL, HEADS, dropout=0.2, batch_first=True),
    "encoder layer": lambda: nn.TransformerEncoderLayer(
        D_MODEL, HEADS, D_FF, dropout=0.2, activation="gelu", batch_first=True
    ),
    "decoder layer": lambda: nn.TransformerDecoderLayer(
        D_MODEL, HEADS, D_FF, dropout=0.2, norm_first=True, bias=False, batch_first=True
    ),
    "transformer": lambda: torch_transformer(dropout=0.2),
}
OURS = {
    "attention": lambda: MultiHeadAttention(D_MODEL, HEADS, dropout=0.2),
    "encoder layer": lambda: EncoderLayer(
        **LAYER, dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, norm_position="pre"
    ),
    "decoder layer": lambda: DecoderLayer(
        **LAYER, dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, activation="gelu"
    ),
    "encoder": lambda: Encoder(config(dropout=0.3)),
    "decoder": lambda: Decoder(config(norm_position="pre")),
}


def assert_same_module(one: nn.Module, other: nn.Module) -> None:
    """The same structure, options (as they are printed) and weights, but no storage in common."""
    assert str(one) == str(other)
    assert one.training == other.training
    weights, other_weights = one.state_dict(), other.state_dict()
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, other_weights[name])
        assert weight.dtype == other_weights[name].dtype
        assert weight.data_ptr() != other_weights[name].data_ptr()


def attention_dropouts(module: nn.Module) -> list[float]:
    return [m.dropout for m in module.modules() if isinstance(m, MultiHeadAttention | nn.MultiheadAttention)]


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_from_torch(name, dtype):
    module = randomised(THEIRS[name]()).to(dtype).eval()
    again = to_torch(from_torch(module))
    assert type(again) is type(module)
    assert_same_module(again, module)
    assert attention_dropouts(again) == attention_dropouts(module)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_from_qkv(name, dtype):
    module = randomised(OURS[name]()).to(dtype)
    again = from_torch(to_torch(module))
    assert type(again) is type(module)
    assert_same_module(again, module)
    assert attention_dropouts(again) == attention_dropouts(module)


def test_a_module_that_takes_the_batch_second_has_the_same_weights():
    theirs = randomised(nn.MultiheadAttention(D_MODEL, HEADS, batch_first=False))
    x = torch.randn(2, SOURCE, D_MODEL)
    expected = theirs(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(from_torch(theirs)(x)[0], expected, **CLOSE)


def test_converting_draws_no_random_numbers():
    module = torch_transformer()
    before = torch.get_rng_state()
    to_torch(from_torch(module))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_weights_stay_on_their_device():
    module = from_torch(torch_transformer().cuda())
    assert all(parameter.is_cuda for stack in module for parameter in stack.parameters())


def layer_with(**parts) -> nn.TransformerDecoderLayer:
    """torch's layer with some of its parts replaced."""
    layer = nn.TransformerDecoderLayer(D_MODEL, HEADS, D_FF)
    for name, part in parts.items():
        setattr(layer, name, part)
    return layer


class TestWhatTheOtherLacks:
    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, kdim=8), "kdim"),
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, vdim=8), "vdim"),
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, add_bias_kv=True), "add_bias_kv"),
            (lambda: nn.MultiheadAttention(D_MODEL, HEADS, add_zero_attn=True), "add_zero_attn"),
            (lambda: nn.TransformerEncoderLayer(D_MODEL, HEADS, activation=torch.tanh), "tanh"),
            (lambda: nn.TransformerEncoderLayer(D_MODEL, HEADS, activation=nn.GELU("tanh")), "exact"),
            (lambda: nn.TransformerEncoderLayer(D_MODEL, HEADS, layer_norm_eps=1e-6), "1e-06"),
            (lambda: layer_with(norm2=nn.RMSNorm(D_MODEL)), "RMSNorm"),
            (lambda: layer_with(norm2=nn.LayerNorm(D_MODEL, elementwise_affine=False)), "LayerNorm with weights"),
            (lambda: layer_with(dropout2=nn.Dropout(0.5)), "different dropouts after sublayers"),
            (lambda: layer_with(self_attn=nn.MultiheadAttention(D_MODEL, 1, dropout=0.1)), "numbers of heads"),
            (lambda: layer_with(self_attn=nn.MultiheadAttention(D_MODEL, HEADS)), "dropouts in attention"),
            (lambda: layer_with(extra=nn.Linear(2, 2)), "extra.weight has no counterpart"),
            (
                lambda: nn.TransformerEncoder(
                    nn.TransformerEncoderLayer(D_MODEL, HEADS, batch_first=True), 2, nn.RMSNorm(D_MODEL), False
                ),
                "RMSNorm",
            ),
        ],
    )
    def test_in_qkv(self, module, message):
        with pytest.raises(ValueError, match=message):
            from_torch(module())

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (lambda: MultiHeadAttention(D_MODEL, 3, rotary=True), "rotary"),
            (lambda: EncoderLayer(**LAYER, rotary=True), "rotary"),
            (lambda: DecoderLayer(**LAYER, rotary=True), "rotary"),
            (lambda: EncoderLayer(**LAYER, activation="swiglu"), "swiglu"),
            (lambda: Decoder(config(activation="swiglu")), "swiglu"),
            (lambda: Transformer(config(position="rotary")), "rotary"),
        ],
    )
    def test_in_torch(self, module, message):
        with pytest.raises(ValueError, match=message):
            to_torch(module())

    @pytest.mark.parametrize("convert", [to_torch, from_torch])
    def test_other_modules(self, convert):
        with pytest.raises(TypeError, match="no counterpart of Linear"):
            convert(nn.Linear(2, 2))
