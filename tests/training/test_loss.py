"""The loss: equal to PyTorch's, whatever the slices, the precision and the tying."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qkv.nn import Transformer, TransformerConfig
from qkv.text.batches import Batch
from qkv.training import loss as loss_module
from qkv.training.loss import batch_loss, projected_cross_entropy

TOKENS, WIDTH, VOCAB = 13, 6, 11


@pytest.fixture(params=[1, 3, TOKENS, 1000], ids=lambda rows: f"{rows} rows at once")
def slices(request, monkeypatch) -> None:
    monkeypatch.setitem(loss_module._LOGITS_AT_ONCE, "cpu", request.param * VOCAB)


def problem(bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, nn.Linear(WIDTH, VOCAB, bias=bias).to(dtype), torch.randint(0, VOCAB, (TOKENS,))


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_pytorchs(smoothing, bias):
    hidden, output, targets = problem(bias)
    inputs = [hidden, *output.parameters()]

    ours = projected_cross_entropy(hidden, output, targets, smoothing)
    gradients = torch.autograd.grad(3.0 * ours.smoothed, inputs)

    logits = output(hidden)
    smoothed = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(ours.smoothed, smoothed, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.nll, F.cross_entropy(logits, targets, reduction="sum"), rtol=0, atol=1e-10)
    for gradient, theirs in zip(gradients, torch.autograd.grad(3.0 * smoothed, inputs), strict=True):
        torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-10)


class LossOfOutput(nn.Linear):
    def forward(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return projected_cross_entropy(hidden, self, targets, 0.1).smoothed


def test_gradient_by_finite_differences(monkeypatch):
    monkeypatch.setitem(loss_module._LOGITS_AT_ONCE, "cpu", 4 * VOCAB)
    hidden, output, targets = problem()

    def function(hidden, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(LossOfOutput(WIDTH, VOCAB), parameters, (hidden, targets))

    assert torch.autograd.gradcheck(function, (hidden, output.weight, output.bias))


def test_it_cannot_be_differentiated_twice_by_mistake():
    hidden, output, targets = problem()
    loss = projected_cross_entropy(hidden, output, targets).smoothed ** 2
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_without_gradients_the_values_are_the_same():
    hidden, output, targets = problem()
    with_gradient = projected_cross_entropy(hidden, output, targets, 0.1)
    with torch.no_grad():
        without = projected_cross_entropy(hidden, output, targets, 0.1)
    assert torch.equal(with_gradient.smoothed, without.smoothed)
    assert torch.equal(with_gradient.nll, without.nll)
    assert not without.smoothed.requires_grad
    assert not with_gradient.nll.requires_grad


@pytest.mark.usefixtures("slices")
def test_bf16_autocast_comes_close():
    hidden, output, targets = problem(dtype=torch.float32)
    exact = F.cross_entropy(output(hidden), targets, label_smoothing=0.1, reduction="sum")
    expected = torch.autograd.grad(exact, [hidden, *output.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = projected_cross_entropy(hidden, output, targets, 0.1)
    assert ours.smoothed.dtype == torch.float32
    torch.testing.assert_close(ours.smoothed, exact, rtol=1e-2, atol=0)
    for gradient, theirs in zip(
        torch.autograd.grad(ours.smoothed, [hidden, *output.parameters()]), expected, strict=True
    ):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, theirs, rtol=0, atol=5e-2)


def batch(padded: bool) -> Batch:
    """Two pairs, of 4 and 2 target tokens; or of 4 and 4."""
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]]) if padded else None
    return Batch(
        source=torch.tensor([[5, 6, 2], [7, 2, 0]]),
        source_mask=torch.tensor([[True, True, True], [True, True, False]]),
        target_input=torch.tensor([[1, 5, 6, 7], [1, 8, 0, 0]]),
        target_output=torch.tensor([[5, 6, 7, 2], [8, 2, 0, 0]]),
        target_mask=mask,
        num_target_tokens=6 if padded else 8,
    )


def small_model(tie: str) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        VOCAB, d_model=8, num_heads=2, d_ff=16, encoder_layers=1, decoder_layers=1, dropout=0.0, tie=tie
    )
    return Transformer(config).double()


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("tie", ["all", "target", "none"])
def test_the_model_gets_the_gradients_of_a_plain_forward_pass(tie, padded):
    """With tied weights the one matrix gets the gradient of the projection and that of the embedding."""
    model, pairs = small_model(tie), batch(padded)
    logits = model(pairs.source, pairs.target_input, pairs.source_mask)
    real = torch.ones_like(pairs.target_output, dtype=torch.bool) if pairs.target_mask is None else pairs.target_mask
    plain = F.cross_entropy(logits[real], pairs.target_output[real], label_smoothing=0.1, reduction="sum")
    expected = torch.autograd.grad(plain, list(model.parameters()))

    ours = batch_loss(model, pairs, 0.1).smoothed
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    for gradient, theirs in zip(torch.autograd.grad(ours, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, theirs, rtol=0, atol=1e-10)


def test_padding_counts_for_nothing():
    model, pairs = small_model("all"), batch(padded=True)
    other = replace(pairs, target_output=torch.where(pairs.target_mask, pairs.target_output, 9))
    assert torch.equal(batch_loss(model, pairs).smoothed, batch_loss(model, other).smoothed)
    assert torch.equal(batch_loss(model, pairs).nll, batch_loss(model, other).nll)
