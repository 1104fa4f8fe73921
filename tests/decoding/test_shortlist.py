"""What a shortlist holds, and that one which holds everything changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkv.decoding.cpu.quantization import quantize
from qkv.decoding.options import SearchOptions
from qkv.decoding.search import search
from qkv.decoding.shortlist import Shortlist, Shortlisted, learn_shortlist
from qkv.errors import UserError
from qkv.nn import Transformer, TransformerConfig
from qkv.text.batches import pad

VOCABULARY = 40


class Pairs:
    """A corpus in which source token s is always translated as 39 - s, in any order, and 9 stands everywhere."""

    def __init__(self, count=300):
        rng = np.random.default_rng(1)
        self._sources = [rng.choice(np.arange(10, 30), size=rng.integers(2, 7), replace=False) for _ in range(count)]
        self._targets = [np.append(rng.permutation(39 - source), 9) for source in self._sources]
        self.source_lengths = np.array(list(map(len, self._sources)))
        self.target_lengths = np.array(list(map(len, self._targets)))

    def __len__(self):
        return len(self._sources)

    def source(self, index):
        return self._sources[index]

    def target(self, index):
        return self._targets[index]


def test_it_learns_what_translates_what(monkeypatch, without_shape_checks):
    monkeypatch.setattr("qkv.decoding.shortlist._FREQUENT", 1)
    shortlist = learn_shortlist(Pairs(), VOCABULARY, VOCABULARY, 1, special=[0, 1])
    assert shortlist.always.tolist() == [0, 1, 9]
    learnt = shortlist.candidates[10:30, 0]
    assert sum(learnt == 39 - torch.arange(10, 30)) >= 19
    assert shortlist.of(torch.tensor([[12, 13], [13, 12]])).tolist() == [0, 1, 9, 26, 27]
    assert set(shortlist.candidates[:10, 0].tolist()) == {0}  # never seen: nothing beyond what is always there


def test_a_large_corpus_is_learnt_from_in_part(monkeypatch, without_shape_checks):
    corpus, asked = Pairs(), []
    monkeypatch.setattr("qkv.decoding.shortlist._MAX_ALIGNED", 2000)
    monkeypatch.setattr(corpus, "source", lambda index, source=corpus.source: asked.append(index) or source(index))
    learn_shortlist(corpus, VOCABULARY, VOCABULARY, 2, special=[])
    assert sum(corpus.source_lengths[i] * corpus.target_lengths[i] for i in asked) <= 2500
    assert asked[-1] > 250


def test_it_is_saved_and_read(tmp_path):
    path = tmp_path / "shortlist.safetensors"
    shortlist = Shortlist(torch.arange(6).view(3, 2), torch.tensor([7, 9]))
    shortlist.save(path)
    read = Shortlist.load(path)
    assert torch.equal(read.candidates, shortlist.candidates)
    assert torch.equal(read.always, shortlist.always)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a shortlist"):
        Shortlist.load(path)


IDS = st.integers(3, VOCABULARY - 1)


@given(st.lists(st.lists(IDS, min_size=1, max_size=5), min_size=1, max_size=5), st.lists(IDS, max_size=2), st.data())
def test_each_source_of_a_batch_sees_its_own_list(sources, prefix, data):
    """Padding adds nothing to it."""
    numbers = st.lists(st.lists(IDS, min_size=2, max_size=2), min_size=VOCABULARY, max_size=VOCABULARY)
    shortlist = Shortlist(torch.tensor(data.draw(numbers)), torch.tensor([0, 1, 2]))
    source, mask = pad(sources, 0)
    tokens = torch.cat((shortlist.of(source), torch.tensor(prefix, dtype=torch.int64))).unique()
    allowed = shortlist.allowed(source, mask, tokens, prefix)
    for row, ids in zip(allowed, sources, strict=True):
        assert set(tokens[row].tolist()) == {*shortlist.of(torch.tensor([ids])).tolist(), *prefix}


def make_model():
    torch.manual_seed(3)
    config = TransformerConfig(VOCABULARY, d_model=16, num_heads=2, d_ff=32, encoder_layers=1, decoder_layers=2)
    return Transformer(config).eval()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("quantized", [False, True])
def test_the_whole_vocabulary_changes_nothing(beam, quantized):
    model = quantize(make_model()) if quantized else make_model().double()
    source = torch.randint(3, VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(1))
    options = SearchOptions(beam=beam, n_best=beam)
    expected = search(model, source, None, bos=1, eos=2, pad=0, options=options)
    everything = Shortlist(torch.zeros(VOCABULARY, 1, dtype=torch.int64), torch.arange(VOCABULARY))
    narrow = Shortlisted(model, everything.of(source))
    assert narrow.restore(search(narrow, source, None, bos=1, eos=2, pad=0, options=options)) == expected


@pytest.mark.parametrize("beam", [1, 3])
def test_only_what_is_on_it_is_emitted(beam):
    model = make_model()
    with torch.no_grad():
        model.output.weight[2] = 0  # sentences last until they are cut off, but for a few
    source = torch.randint(3, VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([0, 1, 2, 8, 20, 31])
    narrow = Shortlisted(model, tokens)
    found = narrow.restore(
        search(narrow, source, None, bos=1, eos=2, pad=0, options=SearchOptions(beam=beam, n_best=beam))
    )
    emitted = {token for row in found for best in row for token in best.tokens}
    assert emitted
    assert emitted <= {8, 20, 31}
