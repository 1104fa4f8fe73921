import math

import pytest
import torch

from qkv.nn import (
    Embedding,
    LearnedPosition,
    RotaryPosition,
    SinusoidalPosition,
    TokenEmbedding,
    attention,
    sinusoidal_position,
)


def test_tokens_are_scaled_by_the_root_of_d_model():
    tokens = TokenEmbedding(7, 16)
    torch.testing.assert_close(tokens(torch.tensor([[2, 5]]))[0], 4 * tokens.weight[[2, 5]])


def test_tokens_are_as_large_as_positions():
    embedded = TokenEmbedding(100, 64)(torch.arange(100)[None])
    assert embedded.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("d_model", [1, 2, 7, 16])
def test_sinusoids_are_the_papers(d_model):
    table = sinusoidal_position(300, d_model)
    assert table.shape == (300, d_model)
    for position in (0, 1, 2, 17, 299):
        for i in range(d_model):
            # Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d)).
            angle = position / 10000 ** (2 * (i // 2) / d_model)
            expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert table[position, i].item() == pytest.approx(expected, abs=1e-12)


def test_sinusoids_a_distance_apart_are_a_rotation_apart():
    table = sinusoidal_position(50, 8)
    planes = table.view(50, 4, 2)
    # The paper's reason for sinusoids: PE(pos + k) is a linear function of PE(pos), the same for every pos.
    distance = 7
    frequency = 10000 ** (-torch.arange(4) / 4)
    sine, cosine = torch.sin(distance * frequency), torch.cos(distance * frequency)
    rotation = torch.stack((torch.stack((cosine, sine), -1), torch.stack((-sine, cosine), -1)), -2)
    moved = torch.einsum("pab,npb->npa", rotation, planes[:-distance])
    torch.testing.assert_close(moved, planes[distance:])


@pytest.mark.parametrize("length", [1, 255, 256, 257, 700])
def test_sinusoidal_positions_have_any_length(length, dtype, device):
    position = SinusoidalPosition(6)
    x = torch.zeros(2, length, 6, dtype=dtype, device=device)
    added = position(x)
    assert added.dtype == dtype
    expected = sinusoidal_position(length, 6).to(device, dtype)
    assert torch.equal(added, expected.expand(2, -1, -1))


def test_the_table_of_positions_grows():
    position = SinusoidalPosition(4)
    for length in (3, 300, 2000, 5):
        assert torch.equal(position(torch.zeros(1, length, 4))[0], sinusoidal_position(length, 4))


def test_nothing_is_nothing_to_position():
    assert SinusoidalPosition(4)(torch.zeros(2, 0, 4)).shape == (2, 0, 4)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_offset_continues_a_sequence(kind):
    position = SinusoidalPosition(6) if kind == "sinusoidal" else LearnedPosition(300, 6)
    x = torch.randn(2, 270, 6)
    parts = (position(x[:, :100]), position(x[:, 100:101], offset=100), position(x[:, 101:], offset=101))
    assert torch.equal(torch.cat(parts, dim=1), position(x))


def test_sinusoidal_positions_have_nothing_to_learn_or_save():
    position = SinusoidalPosition(4)
    position(torch.zeros(1, 3, 4))
    assert not position.state_dict()
    assert not list(position.parameters())


def test_learned_positions_end():
    position = LearnedPosition(5, 4)
    position(torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match="6 tokens is longer than the 5 learned positions"):
        position(torch.zeros(1, 6, 4))
    with pytest.raises(ValueError, match="6 tokens"):
        position(torch.zeros(1, 1, 4), offset=5)


def rotary_scores(query, key, query_offset, key_offset):
    rotate = RotaryPosition(query.shape[-1])
    return rotate(query, query_offset) @ rotate(key, key_offset).transpose(-2, -1)


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = torch.randn(2, 3, 1, 8), torch.randn(2, 3, 1, 8)
    at_distance_5 = [rotary_scores(query, key, first + 5, first) for first in (0, 1, 40, 500)]
    for scores in at_distance_5[1:]:
        torch.testing.assert_close(scores, at_distance_5[0])
    assert not torch.allclose(rotary_scores(query, key, 6, 0), at_distance_5[0])
    assert not torch.allclose(rotary_scores(query, key, 0, 5), at_distance_5[0])


def test_rotary_turns_each_pair_of_channels():
    x = torch.randn(1, 1, 9, 6)
    turned = RotaryPosition(6)(x)
    for position in range(9):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            number = complex(*x[0, 0, position, 2 * pair : 2 * pair + 2].tolist())
            expected = number * complex(math.cos(angle), math.sin(angle))
            assert complex(*turned[0, 0, position, 2 * pair : 2 * pair + 2].tolist()) == pytest.approx(expected)


def test_rotary_offset_continues_a_sequence():
    rotate, x = RotaryPosition(4), torch.randn(2, 3, 10, 4)
    torch.testing.assert_close(torch.cat((rotate(x[:, :, :7]), rotate(x[:, :, 7:], first=7)), dim=2), rotate(x))


def test_rotary_keeps_the_values_of_attention_in_reach():
    x = torch.randn(1, 2, 5, 8)
    turned = RotaryPosition(8)(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert attention(turned, turned, x).shape == x.shape


def test_rotary_needs_pairs_of_channels():
    with pytest.raises(ValueError, match="even width, got 5"):
        RotaryPosition(5)


@pytest.mark.parametrize("kind", ["sinusoidal", "rotary"])
def test_a_table_first_needed_while_translating_serves_training_too(kind):
    position, shape = (SinusoidalPosition(4), (1, 2, 4)) if kind == "sinusoidal" else (RotaryPosition(4), (1, 1, 2, 4))
    with torch.inference_mode():
        position(torch.zeros(shape))
    x = torch.randn(shape, requires_grad=True)
    position(x).square().sum().backward()
    assert x.grad is not None


def test_embedding_is_scaled_tokens_plus_position():
    tokens = torch.tensor([[1, 2, 3], [3, 3, 0]])
    table = TokenEmbedding(5, 6)
    embedding = Embedding(table, "sinusoidal")
    expected = table.weight[tokens] * math.sqrt(6) + sinusoidal_position(9, 6)[4:7]
    torch.testing.assert_close(embedding(tokens, offset=4), expected)


@pytest.mark.parametrize("position", ["rotary", "none"])
def test_other_positions_add_nothing_to_tokens(position):
    tokens, table = torch.tensor([[1, 2, 3]]), TokenEmbedding(5, 6)
    assert torch.equal(Embedding(table, position)(tokens, offset=2), table(tokens))


def test_learned_positions_are_learnt():
    embedding = Embedding(TokenEmbedding(5, 6), "learned", max_length=8)
    embedding(torch.tensor([[1, 2, 3]])).square().sum().backward()
    gradient = embedding.position.weight.grad
    assert (gradient[:3] != 0).all()
    assert (gradient[3:] == 0).all()


def test_dropout_comes_last_and_only_while_training():
    embedding = Embedding(TokenEmbedding(50, 40), "sinusoidal", dropout=0.5)
    tokens = torch.arange(50)[None]
    trained, evaluated = embedding(tokens), embedding.eval()(tokens)
    kept = trained != 0
    assert 0.4 < kept.double().mean() < 0.6
    torch.testing.assert_close(trained[kept], 2 * evaluated[kept])
