"""Several models that decide together."""

import pytest
import torch

from qkv.decoding.ensemble import Ensemble
from qkv.decoding.options import SearchOptions
from qkv.decoding.search import search
from qkv.nn.architectures import ARCHITECTURES

VOCABULARY = 13
SPECIAL = {"bos": 1, "eos": 2, "pad": 0}


def made(name: str, seed: int, **changes) -> torch.nn.Module:
    torch.manual_seed(seed)
    kind = ARCHITECTURES[name]
    return kind.build(kind.config(vocab_size=VOCABULARY, d_model=16, **changes)).double().eval()


def mixture():
    transformer = made("transformer", 0, num_heads=2, d_ff=32, encoder_layers=1, decoder_layers=2)
    return [transformer, made("lstm-attention", 1), made("convolutional", 2, encoder_layers=2, decoder_layers=1)]


def sources() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.randint(3, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(3))
    return source, torch.arange(7) < torch.tensor([7, 5, 2, 6])[:, None]


@pytest.mark.parametrize("beam", [1, 4])
def test_alone_or_with_itself_a_model_finds_what_it_finds(beam):
    model, (source, mask) = mixture()[0], sources()
    options = SearchOptions(beam=beam, n_best=beam, max_length_ratio=1.0)
    expected = search(model, source, mask, **SPECIAL, options=options)
    for count in (1, 3):
        found = search(Ensemble([model] * count), source, mask, **SPECIAL, options=options)
        for row, own in zip(found, expected, strict=True):
            assert [each.tokens for each in row] == [each.tokens for each in own]
            assert [each.score for each in row] == pytest.approx([each.score for each in own], abs=1e-9)


def test_log_probabilities_are_the_mean_renormalised():
    models, (source, mask) = mixture(), sources()
    target = torch.randint(3, VOCABULARY, (4, 5), generator=torch.Generator().manual_seed(4))
    said = torch.stack([model(source, target, mask).log_softmax(dim=-1) for model in models]).mean(dim=0)
    found = Ensemble(models)(source, target, mask).log_softmax(dim=-1)
    torch.testing.assert_close(found, said.log_softmax(dim=-1))


def test_a_search_sees_what_a_pass_over_its_output_sees():
    """Steps with caches, beams that move and sentences that leave give each output its own probability."""
    ensemble, (source, mask) = Ensemble(mixture()), sources()
    options = SearchOptions(beam=5, n_best=3, max_length_ratio=2.0)
    for row, found in enumerate(search(ensemble, source, mask, **SPECIAL, options=options)):
        for each in found:
            tokens = [*each.tokens, SPECIAL["eos"]] if each.finished else each.tokens
            before = torch.tensor([[SPECIAL["bos"], *tokens[:-1]]])
            length = int(mask[row].sum())
            said = ensemble(source[row : row + 1, :length], before)[0].log_softmax(dim=-1)
            whole = said[torch.arange(len(tokens)), torch.tensor(tokens)].sum().item()
            assert each.log_probability == pytest.approx(whole, abs=1e-9)


def test_vocabularies_must_be_as_large_as_each_other():
    kind = ARCHITECTURES["gru"]
    with pytest.raises(ValueError, match="one target vocabulary"):
        Ensemble([made("gru", 0), kind.build(kind.config(vocab_size=VOCABULARY + 1))])
