import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qkv.nn import MultiHeadAttention, attention, causal_mask, padding_mask

VIDEOS = [
    "poaching an egg",
    "cello suites",
    "the march of the penguins",
    "knots for sailors",
    "the moon landing",
]
# What each video is known by: how much it is about food, music, animals, the sea and history.
KEYS = torch.tensor(
    [
        [3.0, 0.0, 0.5, 0.0, 0.0],
        [0.0, 3.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 3.0, 1.5, 0.0],
        [0.0, 0.0, 0.0, 3.0, 0.5],
        [0.0, 0.5, 0.0, 0.0, 3.0],
    ],
    dtype=torch.float64,
)


class TestAttentionIsRetrieval:
    @pytest.mark.parametrize("wanted", range(5), ids=VIDEOS)
    def test_the_matching_key_ranks_first(self, wanted):
        query = KEYS[wanted : wanted + 1]
        _, weights = attention(query, KEYS, torch.eye(5), return_weights=True)
        assert weights.argmax().item() == wanted
        assert weights.sum().item() == pytest.approx(1.0)
        assert (weights > 0).all()

    def test_a_question_between_two_topics_ranks_all_videos(self):
        animals_at_sea = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0]])
        _, weights = attention(animals_at_sea, KEYS, torch.eye(5), return_weights=True)
        ranking = [VIDEOS[i] for i in weights[0].argsort(descending=True)[:3]]
        assert ranking == ["the march of the penguins", "knots for sailors", "poaching an egg"]

    def test_a_sharp_question_retrieves_the_value_itself(self):
        contents = torch.randn(5, 7)
        retrieved = attention(100 * KEYS, KEYS, contents)
        torch.testing.assert_close(retrieved, contents)


def by_the_book(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 1 for one head, number by number; allowed[i, j] says whether query i may attend to key j."""
    weights = torch.zeros(len(query), len(key))
    for i in range(len(query)):
        scores = {j: float(query[i] @ key[j]) / math.sqrt(query.shape[1]) for j in range(len(key)) if allowed[i, j]}
        total = sum(math.exp(score) for score in scores.values())
        for j, score in scores.items():
            weights[i, j] = math.exp(score) / total
    return torch.stack([sum(weights[i, j] * value[j] for j in range(len(key))) for i in range(len(query))]), weights


# Masks for 2 sequences × 3 heads of 4 queries and 6 keys, and whether the causal rule holds too.
MASKS = {
    "none": (None, False),
    "padding": (padding_mask(torch.tensor([6, 2]))[:, None, None, :], False),
    "causal": (None, True),
    "padding and causal": (padding_mask(torch.tensor([6, 4]))[:, None, None, :], True),
    "a mask per head": (torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(3)) < 0.7, False),
    "one mask for all": (torch.rand(4, 6, generator=torch.Generator().manual_seed(4)) < 0.7, False),
    "one column for all": (torch.tensor([True, False, True, True])[:, None], False),
    "one row for all": (torch.tensor([True, False, True, True, False, True]), False),
    "nothing for some queries": (torch.tensor([[True] * 6, [False] * 6, [True] * 6, [False] * 6]), False),
    "nothing for a sequence": (torch.tensor([True, False])[:, None, None, None].expand(2, 1, 4, 6), False),
    "nothing, by padding and causal": (padding_mask(torch.tensor([6, 3])).flip(1)[:, None, None, :], True),
}


@pytest.fixture(params=MASKS, ids=[name.replace(" ", "-") for name in MASKS])
def masking(request) -> dict:
    mask, causal = MASKS[request.param]
    return {"mask": mask, "causal": causal}


def allowed_by(mask: Tensor | None, causal: bool) -> Tensor:
    allowed = torch.ones(2, 3, 4, 6, dtype=torch.bool) if mask is None else mask.expand(2, 3, 4, 6)
    return allowed & (torch.arange(6) <= torch.arange(4)[:, None] + 2) if causal else allowed


def random_heads(requires_grad: bool = False) -> list[Tensor]:
    shapes = [(2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 5)]
    return [torch.randn(shape, requires_grad=requires_grad) for shape in shapes]


def run(heads: list[Tensor], explicit: bool, **masking) -> Tensor:
    return attention(*heads, **masking, return_weights=True)[0] if explicit else attention(*heads, **masking)


class TestAttention:
    def test_both_paths_do_what_the_equation_says(self, masking):
        query, key, value = random_heads()
        allowed = allowed_by(**masking)
        fused = attention(query, key, value, **masking)
        explicit, weights = attention(query, key, value, **masking, return_weights=True)
        for row in range(2):
            for head in range(3):
                at = (row, head)
                expected, expected_weights = by_the_book(query[at], key[at], value[at], allowed[at])
                torch.testing.assert_close(fused[at], expected, atol=1e-12, rtol=0)
                torch.testing.assert_close(explicit[at], expected, atol=1e-12, rtol=0)
                torch.testing.assert_close(weights[at], expected_weights, atol=1e-12, rtol=0)

    def test_gradients_of_both_paths_agree(self, masking):
        heads = random_heads(requires_grad=True)
        direction = torch.randn(2, 3, 4, 5)
        fused = torch.autograd.grad((run(heads, False, **masking) * direction).sum(), heads)
        explicit = torch.autograd.grad((run(heads, True, **masking) * direction).sum(), heads)
        for one, other in zip(fused, explicit, strict=True):
            assert one.isfinite().all()
            torch.testing.assert_close(one, other, atol=1e-12, rtol=0)

    def test_gradients_are_those_of_the_function(self, masking):
        # Against finite differences, for one head of the second sequence to be quick.
        inputs = [head[1:, :1].requires_grad_() for head in random_heads()]
        mask = None if masking["mask"] is None else masking["mask"].expand(2, 3, 4, 6)[1:, :1]
        assert torch.autograd.gradcheck(
            lambda *heads: attention(*heads, mask, causal=masking["causal"]), inputs, fast_mode=True
        )

    @pytest.mark.parametrize("explicit", [False, True], ids=["fused", "explicit"])
    def test_a_query_that_may_see_nothing_retrieves_zeros(self, explicit, dtype, device):
        heads = [head.to(device, dtype).detach().requires_grad_() for head in random_heads()]
        mask = torch.ones(2, 1, 4, 6, dtype=torch.bool, device=device)
        mask[0, :, 1] = False
        mask[1] = False
        retrieved = run(heads, explicit, mask=mask)
        assert (retrieved[0, :, 1] == 0).all()
        assert (retrieved[1] == 0).all()
        assert (retrieved[0, :, 0] != 0).all()
        query, key, value = torch.autograd.grad(retrieved.square().sum() + retrieved.sum(), heads)
        assert all(gradient.isfinite().all() for gradient in (query, key, value))
        assert (query[0, :, 1] == 0).all()
        assert all((gradient[1] == 0).all() for gradient in (query, key, value))
        assert (key[0] != 0).any()

    def test_weights_of_a_query_that_may_see_nothing_are_zero(self):
        mask = torch.tensor([[True] * 6, [False] * 6, [True] * 6, [True] * 6])
        _, weights = attention(*random_heads(), mask, return_weights=True)
        torch.testing.assert_close(weights.sum(dim=-1), mask.any(dim=-1).double().expand(2, 3, 4))

    def test_causal_queries_are_the_last_positions(self):
        query, key, value = (torch.randn(2, 6, 8) for _ in range(3))
        whole = attention(query, key, value, causal=True)
        for new in (1, 2, 5):
            torch.testing.assert_close(attention(query[:, -new:], key, value, causal=True), whole[:, -new:])

    def test_causal_equals_the_causal_mask(self):
        query, key, value = (torch.randn(2, 6, 8) for _ in range(3))
        expected = attention(query, key, value, causal_mask(6))
        torch.testing.assert_close(attention(query, key, value, causal=True), expected)

    @pytest.mark.parametrize("name", ["none", "padding and causal", "nothing for some queries"])
    def test_precisions_and_devices(self, name, dtype, tolerance, device):
        heads, (mask, causal) = random_heads(), MASKS[name]
        exact = attention(*heads, mask, causal=causal)
        rounded_heads = [head.to(device, dtype) for head in heads]
        mask = None if mask is None else mask.to(device)
        for explicit in (False, True):
            rounded = run(rounded_heads, explicit, mask=mask, causal=causal)
            assert rounded.dtype == dtype
            torch.testing.assert_close(rounded.double().cpu(), exact, atol=tolerance, rtol=tolerance)

    def test_scale(self):
        query, key, value = random_heads()
        for explicit in (False, True):
            scaled = run([query, key, value], explicit, scale=1.0)
            torch.testing.assert_close(scaled, run([query * math.sqrt(8), key, value], explicit))

    def test_no_batch_is_needed(self):
        query, key, value = torch.randn(4, 8), torch.randn(6, 8), torch.randn(6, 3)
        expected = (query @ key.T / math.sqrt(8)).softmax(-1) @ value
        torch.testing.assert_close(attention(query, key, value), expected)

    def test_the_fused_kernel_runs_unless_weights_are_asked_for(self, masking, monkeypatch):
        calls = []
        kernel = F.scaled_dot_product_attention
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
        attention(*random_heads(), **masking)
        assert len(calls) == 1
        attention(*random_heads(), **masking, return_weights=True)
        assert len(calls) == 1

    def test_dropout_drops_weights_and_scales_the_rest(self):
        query, key = torch.randn(1, 200, 8), torch.randn(1, 300, 8)
        # Of an identity the retrieved values are the weights that were used.
        dropped, weights = attention(query, key, torch.eye(300)[None], dropout=0.3, return_weights=True)
        kept = dropped != 0
        assert kept.double().mean().item() == pytest.approx(0.7, abs=0.01)
        torch.testing.assert_close(dropped[kept], weights[kept] / 0.7, rtol=1e-4, atol=0)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 200))

    @pytest.mark.parametrize("causal", [False, True])
    def test_dropout_keeps_the_expectation_and_the_mask(self, causal, device):
        query, key, value = (torch.randn(1, 4, 8, device=device) for _ in range(3))
        many = [head.expand(5000, 4, 8) for head in (query, key, value)]
        mean = attention(*many, causal=causal, dropout=0.2).mean(dim=0, keepdim=True)
        torch.testing.assert_close(mean, attention(query, key, value, causal=causal), atol=0.05, rtol=0)


class BeginsAt:
    """A cache that keeps nothing, but says where a sequence begins and ends."""

    def __init__(self, *positions):
        self.positions = positions

    def extend(self, new):
        return new


class TestMultiHeadAttention:
    def test_heads_look_in_their_own_subspaces(self):
        module = MultiHeadAttention(12, 3)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        query, key, value = torch.randn(2, 4, 12), torch.randn(2, 6, 12), torch.randn(2, 6, 12)
        # Section 3.2.2: Concat(head_1, …, head_h) W^O, where head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V).
        projected = [
            x @ weight.T + bias
            for x, weight, bias in zip(
                (query, key, value),
                module.projection.weight.chunk(3),
                module.projection.bias.chunk(3),
                strict=True,
            )
        ]
        heads = [attention(*(x[..., 4 * i : 4 * i + 4] for x in projected)) for i in range(3)]
        expected = torch.cat(heads, dim=-1) @ module.output.weight.T + module.output.bias
        torch.testing.assert_close(module(query, key, value)[0], expected)

    def test_what_is_not_given_is_the_query(self):
        module, x, y = MultiHeadAttention(12, 3), torch.randn(2, 4, 12), torch.randn(2, 4, 12)
        torch.testing.assert_close(module(x)[0], module(x, x, x)[0])
        torch.testing.assert_close(module(x, y)[0], module(x, y, y)[0])
        torch.testing.assert_close(module(x, value=y)[0], module(x, x, y)[0])

    @pytest.mark.parametrize("bias", [False, True])
    def test_weights_are_returned_and_never_kept(self, bias):
        module = MultiHeadAttention(12, 3, bias=bias)
        x = torch.randn(2, 5, 12)
        before = dict(vars(module))
        output, weights = module(x, mask=padding_mask(torch.tensor([5, 2]))[:, None], return_weights=True)
        assert weights.shape == (2, 3, 5, 5)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
        assert (weights[1, :, :, 2:] == 0).all()
        assert vars(module) == before
        assert not any(isinstance(held, Tensor) for part in module.modules() for held in vars(part).values())
        without = module(x, mask=padding_mask(torch.tensor([5, 2]))[:, None])
        assert without[1] is None
        torch.testing.assert_close(without[0], output)

    def test_one_mask_for_all_or_one_each(self):
        module, x = MultiHeadAttention(12, 3), torch.randn(2, 5, 12)
        mask = causal_mask(5)[None]
        expected = module(x, causal=True)[0]
        torch.testing.assert_close(module(x, mask=mask)[0], expected)
        torch.testing.assert_close(module(x, mask=mask.expand(2, 5, 5))[0], expected)

    def test_without_positions_order_means_nothing(self):
        module, x, order = MultiHeadAttention(12, 3), torch.randn(2, 5, 12), torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(module(x[:, order])[0], module(x)[0][:, order])

    def test_rotary_sees_order_but_not_where_it_begins(self):
        module, x = MultiHeadAttention(12, 3, rotary=True), torch.randn(2, 5, 12)
        order = torch.tensor([3, 0, 4, 1, 2])
        assert not torch.allclose(module(x[:, order])[0], module(x)[0][:, order])
        moved = module(x, cache=BeginsAt(100, 105))[0]
        torch.testing.assert_close(moved, module(x)[0])

    def test_rotary_is_for_self_attention(self):
        module, x = MultiHeadAttention(12, 3, rotary=True), torch.randn(2, 5, 12)
        with pytest.raises(ValueError, match="self-attention"):
            module(x, torch.randn(2, 4, 12))

    def test_dropout_acts_while_training_only(self):
        module, x = MultiHeadAttention(12, 3, dropout=0.5), torch.randn(2, 5, 12)
        assert not torch.allclose(module(x)[0], module(x)[0])
        module.eval()
        assert torch.equal(module(x)[0], module(x)[0])

    def test_precisions_and_devices(self, dtype, tolerance, device):
        module, x = MultiHeadAttention(12, 3), torch.randn(2, 5, 12)
        mask = padding_mask(torch.tensor([5, 2]))[:, None]
        exact, exact_weights = module(x, mask=mask, causal=True, return_weights=True)
        module.to(device, dtype)
        rounded, weights = module(x.to(device, dtype), mask=mask.to(device), causal=True, return_weights=True)
        assert rounded.dtype == weights.dtype == dtype
        torch.testing.assert_close(rounded.double().cpu(), exact, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(weights.double().cpu(), exact_weights, atol=tolerance, rtol=tolerance)

    @pytest.mark.parametrize("rotary", [False, True])
    def test_autocast(self, device, rotary):
        module = MultiHeadAttention(12, 3, rotary=rotary).float().to(device)
        x = torch.randn(2, 5, 12, device=device).float()
        mask = padding_mask(torch.tensor([5, 2], device=device))[:, None]
        exact = module(x, mask=mask)[0]
        for return_weights in (False, True):
            with torch.autocast(device, dtype=torch.bfloat16):
                output = module(x, mask=mask, return_weights=return_weights)[0]
            assert output.dtype == torch.bfloat16
            torch.testing.assert_close(output.float(), exact, atol=5e-2, rtol=5e-2)

    def test_heads_divide_the_model(self):
        with pytest.raises(ValueError, match=r"d_model \(10\) must be a multiple of num_heads \(3\)"):
            MultiHeadAttention(10, 3)
