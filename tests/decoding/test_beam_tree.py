"""A prefix is obeyed at no change of probabilities, and the record of a beam search tells the search as it was."""

import math

import pytest
import torch

from qkv.decoding.beam import beam_search
from qkv.decoding.beam_tree import BeamRecord
from qkv.decoding.options import SearchOptions
from qkv.decoding.scoring import next_tokens, score_targets
from qkv.decoding.search import search
from qkv.decoding.steps import Progress
from qkv.errors import UserError
from qkv.nn import Transformer, TransformerConfig, padding_mask
from qkv.text.batches import Batch

SPECIAL = {"pad": 0, "bos": 1, "eos": 2}
LENGTHS = [6, 4, 1]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = TransformerConfig(19, d_model=16, num_heads=2, d_ff=32, encoder_layers=1, decoder_layers=1, tie="none")
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model.double().eval()


@pytest.fixture(scope="module")
def sources():
    mask = padding_mask(torch.tensor(LENGTHS))
    tokens = torch.randint(3, 19, mask.shape, generator=torch.Generator().manual_seed(1))
    return tokens.masked_fill(~mask, 0), mask


def options(beam, n_best=1):
    return SearchOptions(beam=beam, n_best=n_best, max_length_ratio=1.0, max_length_extra=4)


@pytest.mark.parametrize("beam", [1, 3])
class TestPrefix:
    def test_every_output_begins_with_it_and_scores_as_forced(self, model, sources, beam):
        source, mask = sources
        prefix = [7, 3, 11]
        for row, found in enumerate(search(model, source, mask, **SPECIAL, options=options(beam, beam), prefix=prefix)):
            assert found
            for hypothesis in found:
                assert hypothesis.tokens[:3] == prefix
                output = hypothesis.tokens + [2] * hypothesis.finished
                alone, begun = source[row : row + 1, : LENGTHS[row]], torch.tensor([[1, *output[:-1]]])
                batch = Batch(alone, None, begun, torch.tensor([output]), None, len(output))
                scored = score_targets(model, batch)
                assert hypothesis.log_probability == pytest.approx(float(scored.sum()), rel=1e-9)

    def test_what_the_search_would_begin_with_anyway_changes_nothing(self, model, sources, beam):
        source, mask = sources[0][:1], sources[1][:1]
        [[free]] = search(model, source, mask, **SPECIAL, options=options(1))
        assert len(free.tokens) > 2
        [[forced]] = search(model, source, mask, **SPECIAL, options=options(1), prefix=free.tokens[:2])
        assert forced == free

    def test_one_longer_than_the_limit_may_still_go_on(self, model, sources, beam):
        prefix = [5] * 20
        for found in search(model, *sources, **SPECIAL, options=options(beam), prefix=prefix):
            assert found[0].tokens[:20] == prefix
            assert len(found[0].tokens) + found[0].finished == 21

    @pytest.mark.parametrize("token", [0, 1, 2, -1, 19])
    def test_a_token_that_no_output_holds_is_refused(self, model, sources, beam, token):
        with pytest.raises(UserError, match=f"cannot hold token {token}:"):
            search(model, *sources, **SPECIAL, options=options(beam), prefix=[5, token])


class TestRecord:
    @pytest.fixture(params=[(), (7, 3)])
    def recorded(self, request, model, sources):
        chosen = options(3, n_best=3)
        record = BeamRecord(chosen)
        found = beam_search(Progress(model, *sources, **SPECIAL, options=chosen, prefix=request.param), record)
        plain = beam_search(Progress(model, *sources, **SPECIAL, options=chosen, prefix=request.param))
        assert found == plain
        return found, record

    def test_every_output_is_a_path_of_its_tree(self, recorded):
        found, record = recorded
        assert sorted(record.trees) == [0, 1, 2]
        for row, hypotheses in enumerate(found):
            tree = record.trees[row]
            for hypothesis in hypotheses:
                output = hypothesis.tokens + [2] * hypothesis.finished
                path = [tree.candidates[index] for index in tree.path(output)]
                assert [candidate.token for candidate in path] == output
                assert [candidate.step for candidate in path] == list(range(len(output)))
                assert {candidate.fate for candidate in path[:-1]} == {"kept"}
                assert path[-1].fate == ("finished" if hypothesis.finished else "abandoned")
                assert path[-1].log_probability == pytest.approx(hypothesis.log_probability)
                assert path[-1].score == pytest.approx(hypothesis.score)

    def test_fates(self, recorded):
        _, record = recorded
        for tree in record.trees.values():
            assert tree.reason in ("full", "hopeless", "limit")
            last = tree.candidates[-1].step
            for step in range(last + 1):
                ranked = [candidate for candidate in tree.candidates if candidate.step == step]
                alive = [c for c in ranked if c.fate in ("kept", "abandoned")]
                assert [c.rank for c in ranked] == list(range(len(ranked)))
                assert len(ranked) <= 6
                assert 1 <= len(alive) <= 3
                assert {c.fate for c in alive} == {"abandoned" if step == last else "kept"}
                assert all(c.token != 2 for c in alive)
                assert all(c.token == 2 and c.rank < 3 for c in ranked if c.fate == "finished")
                dropped = [c.log_probability for c in ranked if c.fate == "outranked" and c.token != 2]
                assert max(dropped, default=-math.inf) <= min(c.log_probability for c in alive)


def test_next_tokens_are_the_most_probable(model, sources):
    source = sources[0][:1]
    with torch.inference_mode():
        hidden = model.decode(torch.tensor([[1, 5, 6]]), model.encode(source))[0]
        everything = model.project(hidden).log_softmax(-1)
    values, tokens = next_tokens(model, hidden, 4)
    assert torch.equal(values, everything.sort(descending=True).values[:, :4])
    assert torch.equal(everything.gather(1, tokens), values)
    assert next_tokens(model, hidden, 100)[1].shape == (3, 19)
