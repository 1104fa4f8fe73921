"""What keeps a small corpus from being learnt by heart: R-Drop and forgotten source tokens."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qkv.nn import Transformer, TransformerConfig
from qkv.text.batches import Batch, forced_batch
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings
from qkv.training.loss import Learner, batch_loss, consistent_cross_entropy

TOKENS, WIDTH, VOCAB = 9, 6, 11


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> Tokenizers:
    settings = TokenizerSettings(kind="char")
    return Tokenizers.learn([Pair("abcdefg", "gfedcba")], tmp_path_factory.mktemp("tokenizer"), settings)


@pytest.fixture
def batch(tokenizers) -> Batch:
    return forced_batch([[4, 5, 6, 7, 2], [8, 9, 2]], [[5, 6, 2], [7, 8, 9, 4, 2]], tokenizers)


def model(dropout: float) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        VOCAB, d_model=16, num_heads=2, d_ff=32, encoder_layers=1, decoder_layers=1, dropout=dropout
    )
    return Transformer(config).double().train()


def problem() -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(2 * TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    return hidden, nn.Linear(WIDTH, VOCAB).double(), torch.randint(0, VOCAB, (TOKENS,)).repeat(2)


def test_the_loss_is_the_papers_halved():
    hidden, output, targets = problem()
    loss = consistent_cross_entropy(hidden, output, targets, 0.1, weight=3.0)
    first, second = output(hidden).chunk(2)
    entropy = F.cross_entropy(output(hidden), targets, label_smoothing=0.1, reduction="sum")
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    divergences = sum(F.kl_div(a, b, log_target=True, reduction="sum") for a, b in ((p, q), (q, p)))
    torch.testing.assert_close(loss.smoothed, (entropy + 3.0 * divergences / 2) / 2)
    torch.testing.assert_close(loss.nll, F.cross_entropy(output(hidden), targets, reduction="sum") / 2)
    assert loss.tokens == TOKENS


def test_passes_that_agree_have_the_plain_loss(batch):
    """Without dropout both passes are one: loss and gradient are those of a single pass."""
    twice, once = model(0.0), model(0.0)
    loss, plain = Learner(twice, 0.1, r_drop=5.0)(batch), batch_loss(once, batch, 0.1)
    torch.testing.assert_close(loss.smoothed, plain.smoothed)
    torch.testing.assert_close(loss.nll, plain.nll)
    assert loss.tokens == plain.tokens == batch.num_target_tokens
    loss.smoothed.backward()
    plain.smoothed.backward()
    for (name, a), b in zip(twice.named_parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_dropout_makes_them_differ_and_the_weight_counts_it(batch):
    losses = []
    for weight in (1e-12, 1.0, 2.0):
        learner = Learner(model(0.4), 0.1, r_drop=weight)
        torch.manual_seed(7)
        losses.append(learner(batch).smoothed.item())
    one, two = losses[1] - losses[0], losses[2] - losses[0]
    assert one > 1e-3
    assert two == pytest.approx(2 * one)


def test_validation_passes_once(batch, tokenizers):
    learner = Learner(model(0.4).eval(), 0.1, r_drop=5.0, token_dropout=0.5, tokenizer=tokenizers.source)
    assert learner(batch).smoothed == batch_loss(learner.model, batch, 0.1).smoothed


def test_so_many_tokens_are_forgotten_but_no_end_and_no_padding(tokenizers):
    torch.manual_seed(0)
    learner = Learner(model(0.0), token_dropout=0.3, tokenizer=tokenizers.source)
    source = torch.full((100, 60), 7)
    source[:, 40], source[:, 41:] = tokenizers.source.eos, tokenizers.source.pad
    found = learner._forgetting(source)
    assert (found[:, 40] == tokenizers.source.eos).all()
    assert (found[:, 41:] == tokenizers.source.pad).all()
    forgotten = (found[:, :40] == tokenizers.source.unk).double().mean().item()
    assert forgotten == pytest.approx(0.3, abs=0.03)
    assert ((found == source) | (found == tokenizers.source.unk)).all()


def test_the_model_reads_what_is_left(batch, tokenizers):
    learner = Learner(model(0.0), token_dropout=0.9, tokenizer=tokenizers.source)
    torch.manual_seed(1)
    assert learner(batch).nll != batch_loss(learner.model, batch).nll
