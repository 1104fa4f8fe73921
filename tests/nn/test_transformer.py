import copy
import dataclasses

import jaxtyping
import pytest
import torch

from qkv.nn import AttentionRecord, Transformer, TransformerConfig

SMALL = {"d_model": 16, "num_heads": 4, "d_ff": 32, "encoder_layers": 2, "decoder_layers": 2}


def on_meta(config: TransformerConfig) -> Transformer:
    """The model without storage or initialisation: enough to count its parameters."""
    with torch.device("meta"):
        return Transformer(config)


def count(model: Transformer) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_by_the_formula(config: TransformerConfig) -> int:
    """Three-way tied, sinusoidal positions, relu, biases, no final norm."""
    d, d_ff = config.d_model, config.d_ff
    attention, norm, feed_forward = 4 * (d * d + d), 2 * d, 2 * d * d_ff + d_ff + d
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    layers = config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer
    return config.vocab_size * d + layers


class TestParameters:
    @pytest.mark.parametrize(("preset", "expected"), [("base", 63_082_496), ("big", 214_245_376)])
    def test_the_papers_sizes(self, preset, expected):
        config = getattr(TransformerConfig, preset)(vocab_size=37_000)
        assert count(on_meta(config)) == expected == parameters_by_the_formula(config)

    @pytest.mark.parametrize("preset", ["tiny", "small"])
    def test_the_formula_holds_for_the_others(self, preset):
        config = getattr(TransformerConfig, preset)(vocab_size=1000, encoder_layers=2, decoder_layers=5)
        assert count(on_meta(config)) == parameters_by_the_formula(config)

    def test_a_final_norm_adds_two_norms(self):
        config = TransformerConfig.base(1000)
        with_norm = dataclasses.replace(config, final_norm=True)
        assert count(on_meta(with_norm)) - count(on_meta(config)) == 2 * 2 * 512

    def test_every_parameter_takes_part(self, position, norm_position):
        model = Transformer(TransformerConfig(11, **SMALL, position=position, norm_position=norm_position, tie="none"))
        model(torch.randint(0, 11, (2, 5)), torch.randint(0, 11, (2, 4))).square().sum().backward()
        unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert unused == []


class TestPresets:
    @pytest.mark.parametrize(
        ("preset", "layers", "d_model", "d_ff", "num_heads"),
        [
            ("tiny", 4, 128, 256, 4),
            ("small", 3, 256, 1024, 4),
            ("base", 6, 512, 2048, 8),
            ("big", 6, 1024, 4096, 16),
        ],
    )
    def test_sizes(self, preset, layers, d_model, d_ff, num_heads):
        config = getattr(TransformerConfig, preset)(100)
        shape = (config.encoder_layers, config.decoder_layers, config.d_model, config.d_ff, config.num_heads)
        assert shape == (layers, layers, d_model, d_ff, num_heads)

    def test_defaults_are_the_papers_base(self):
        assert TransformerConfig(100) == TransformerConfig.base(100)

    def test_anything_can_be_changed(self):
        config = TransformerConfig.tiny(100, dropout=0.0, encoder_layers=1)
        assert (config.dropout, config.encoder_layers, config.decoder_layers) == (0.0, 1, 4)

    def test_depths_are_set_apart(self):
        model = on_meta(TransformerConfig.tiny(100, encoder_layers=5, decoder_layers=2))
        assert (len(model.encoder.layers), len(model.decoder.layers)) == (5, 2)


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
            ({"target_vocab_size": 0}, "target_vocab_size must be at least 1, got 0"),
            ({"decoder_layers": 0}, "decoder_layers must be at least 1, got 0"),
            ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
            ({"attention_dropout": -0.1}, r"attention_dropout must be in \[0, 1\), got -0.1"),
            ({"d_model": 10, "num_heads": 4}, r"d_model \(10\) must be a multiple of num_heads \(4\)"),
            ({"d_model": 12, "num_heads": 4, "position": "rotary"}, "heads of even width, got 3"),
            ({"target_vocab_size": 7}, "tie=all needs one vocabulary"),
        ],
    )
    def test_impossible_values_are_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            TransformerConfig(**({"vocab_size": 11} | changes))

    @pytest.mark.parametrize(
        ("name", "choices"),
        [
            ("activation", "relu, gelu, swiglu"),
            ("norm_position", "pre, post"),
            ("position", "sinusoidal, learned, rotary, none"),
            ("tie", "none, target, all"),
        ],
    )
    def test_unknown_choices_are_refused(self, name, choices):
        config = TransformerConfig(11)
        # Here types are checked before the configuration checks itself, elsewhere they are not.
        object.__setattr__(config, name, "both")
        with pytest.raises(ValueError, match=f"{name} must be one of {choices}; got 'both'"):
            config.__post_init__()

    @pytest.mark.parametrize(
        ("norm_position", "final_norm", "expected"),
        [("post", None, False), ("pre", None, True), ("post", True, True), ("pre", False, False)],
    )
    def test_only_pre_norm_needs_a_final_norm(self, norm_position, final_norm, expected):
        model = on_meta(TransformerConfig.tiny(100, norm_position=norm_position, final_norm=final_norm))
        assert (model.encoder.norm is not None) == (model.decoder.norm is not None) == expected


def storages(model: Transformer) -> tuple[int, int, int]:
    weights = (
        model.source_embedding.tokens.weight,
        model.target_embedding.tokens.weight,
        model.output.weight,
    )
    return tuple(weight.data_ptr() for weight in weights)


class TestTying:
    @pytest.mark.parametrize(("tie", "distinct"), [("none", 3), ("target", 2), ("all", 1)])
    def test_tied_weights_are_one_matrix(self, tie, distinct):
        model = Transformer(TransformerConfig(11, **SMALL, tie=tie))
        for version in (model, copy.deepcopy(model), copy.deepcopy(model).to(torch.bfloat16)):
            source, target, output = storages(version)
            assert len({source, target, output}) == distinct
            assert (target == output) == (tie != "none")
        names = [name for name, _ in model.named_parameters() if "tokens" in name or name == "output.weight"]
        assert len(names) == distinct

    def test_tied_weights_stay_one_when_loaded(self):
        model, other = (Transformer(TransformerConfig(11, **SMALL)) for _ in range(2))
        other.load_state_dict(model.state_dict())
        assert len(set(storages(other))) == 1

    def test_two_vocabularies(self):
        model = Transformer(TransformerConfig(11, target_vocab_size=7, **SMALL, tie="target"))
        logits = model(torch.tensor([[10, 3]]), torch.tensor([[6, 1, 2]]))
        assert logits.shape == (1, 3, 7)


class TestEqualities:
    """What does not depend on what: for every kind of position, random and trained weights."""

    def test_padded_equals_unpadded(self, model, source, target):
        mask = source != 0
        padded = model(source, target, mask)
        for row, (source_length, target_length) in enumerate([(5, 4), (3, 6), (4, 1)]):
            alone = model(source[row : row + 1, :source_length], target[row : row + 1, :target_length])
            torch.testing.assert_close(padded[row : row + 1, :target_length], alone, atol=1e-10, rtol=0)

    def test_what_stands_in_the_padding_does_not_matter(self, model, source, target):
        mask = source != 0
        other = torch.where(mask, source, torch.randint_like(source, 11))
        torch.testing.assert_close(model(source, target, mask), model(other, target, mask), atol=1e-12, rtol=0)

    def test_without_the_mask_padding_would_matter(self, model, source, target):
        assert not torch.allclose(model(source, target)[1], model(source, target, source != 0)[1])

    def test_batched_equals_alone(self, model):
        source, target = torch.randint(1, 11, (4, 5)), torch.randint(1, 11, (4, 6))
        together = model(source, target)
        for row in range(4):
            alone = model(source[row : row + 1], target[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-10, rtol=0)

    def test_the_future_does_not_matter(self, model, source, target):
        longer = torch.cat((target, torch.randint(1, 11, (3, 3))), dim=1)
        known = model(source, target, source != 0)
        torch.testing.assert_close(model(source, longer, source != 0)[:, :6], known, atol=1e-10, rtol=0)

    def test_gradients_do_not_come_from_padding(self, model, source, target):
        longer = torch.nn.functional.pad(source, (0, 4))
        gradients = []
        for version in (source, longer):
            model.zero_grad()
            model(version, target, version != 0).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)

    def test_forward_is_encode_decode_project(self, model, source, target):
        memory = model.encode(source, source != 0)
        expected = model.project(model.decode(target, memory))
        assert torch.equal(model(source, target, source != 0), expected)


@pytest.mark.parametrize(
    ("position", "sees_order"), [("sinusoidal", True), ("learned", True), ("rotary", True), ("none", False)]
)
def test_positions_tell_the_order(position, sees_order):
    model = Transformer(TransformerConfig(11, **SMALL, position=position)).eval()
    source, target = torch.tensor([[3, 1, 4, 5]]), torch.tensor([[2, 7]])
    same = torch.allclose(model(source, target), model(source.flip(1), target))
    assert same == (not sees_order)


def test_every_layer_and_head_is_recorded(plain_model, source, target):
    model = plain_model
    record = AttentionRecord()
    mask = source != 0
    memory = model.encode(source, mask, record)
    hidden = model.decode(target, memory, record=record)
    assert [weights.shape for weights in record.encoder] == [(3, 4, 5, 5)] * 2
    assert [weights.shape for weights in record.decoder] == [(3, 4, 6, 6)] * 2
    assert [weights.shape for weights in record.cross] == [(3, 4, 6, 5)] * 2
    assert all((weights[1, :, :, 3:] == 0).all() for weights in record.encoder + record.cross)
    # Looking changes nothing.
    torch.testing.assert_close(hidden, model.decode(target, model.encode(source, mask)), atol=1e-12, rtol=0)


def test_dropout_acts_while_training_only(source, target):
    model = Transformer(TransformerConfig(11, **SMALL, dropout=0.3))
    assert not torch.allclose(model(source, target), model(source, target))
    model.eval()
    assert torch.equal(model(source, target), model(source, target))


def test_the_seed_decides(source, target):
    def run() -> torch.Tensor:
        torch.manual_seed(7)
        model = Transformer(TransformerConfig(11, **SMALL, dropout=0.3, attention_dropout=0.1))
        return model(source, target)

    assert torch.equal(run(), run())


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_precisions_and_devices(activation, position, dtype, device, source, target):
    model = Transformer(TransformerConfig(11, **SMALL, activation=activation, position=position)).eval()
    exact = model(source, target, source != 0)
    source, target = source.to(device), target.to(device)
    logits = model.to(device, dtype)(source, target, source != 0)
    assert logits.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.2}[dtype]
    torch.testing.assert_close(logits.double().cpu(), exact, atol=tolerance, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_bias_is_everywhere_or_nowhere(bias):
    model = on_meta(TransformerConfig(11, **SMALL, norm_position="pre", bias=bias))
    assert any(name.endswith("bias") for name, _ in model.named_parameters()) == bias
    assert model.output.bias is None


class TestShapesAreChecked:
    def test_a_source_without_a_batch(self):
        model = Transformer(TransformerConfig(11, **SMALL))
        with pytest.raises(jaxtyping.TypeCheckError, match="source"):
            model.encode(torch.tensor([1, 2, 3]))

    def test_a_mask_of_another_length(self, source):
        model = Transformer(TransformerConfig(11, **SMALL))
        with pytest.raises(jaxtyping.TypeCheckError, match="source_mask"):
            model.encode(source, torch.ones(3, 4, dtype=torch.bool))

    def test_a_mask_of_numbers(self, source):
        model = Transformer(TransformerConfig(11, **SMALL))
        with pytest.raises(jaxtyping.TypeCheckError, match="source_mask"):
            model.encode(source, torch.ones(3, 5))

    def test_sources_and_targets_of_different_number(self, source):
        model = Transformer(TransformerConfig(11, **SMALL))
        with pytest.raises(jaxtyping.TypeCheckError, match="target"):
            model(source, torch.tensor([[1, 2]]))
