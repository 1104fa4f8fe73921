"""Batches: every pair once, within the budget, hardly padded, the same for the same (seed, epoch)."""

import operator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.text import batches as batches_module
from qkv.text.batches import Batch, BatchPlan, collate, forced_batch, pad
from qkv.text.corpus import Pair
from qkv.text.encoded import write_encoded
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=200)
SEEDS = st.integers(0, 2**32)


def plan(lengths, max_tokens, seed=0, epoch=0):
    sources, targets = np.array(lengths, np.int32).reshape(-1, 2).T
    return BatchPlan(sources, targets, max_tokens, seed=seed, epoch=epoch)


def realistic(pairs, seed=0):
    """Lengths as in a corpus of sentences: most near 14, few beyond 40, the target about as long."""
    generator = np.random.default_rng(seed)
    sources = 2 + generator.poisson(generator.gamma(6, 2, pairs))
    return np.stack([sources, 1 + generator.poisson(sources)], axis=1)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 9))
def test_every_pair_once_and_within_the_budget(lengths, max_tokens, seed, epoch):
    batches = plan(lengths, max_tokens, seed, epoch)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        tokens = len(batch) * max(max(lengths[i]) for i in batch)
        assert tokens <= max_tokens or len(batch) == 1


@given(lengths=LENGTHS, max_tokens=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 9))
def test_the_plan_is_a_function_of_seed_and_epoch(lengths, max_tokens, seed, epoch):
    np.random.seed(epoch)  # noqa: NPY002 - the global generator must not matter
    first = [batch.tolist() for batch in plan(lengths, max_tokens, seed, epoch)]
    assert [batch.tolist() for batch in plan(lengths, max_tokens, seed, epoch)] == first


def test_epochs_and_seeds_differ():
    lengths = realistic(2000)
    plans = [plan(lengths, 512, seed, epoch) for seed, epoch in [(1, 0), (1, 1), (2, 0)]]
    orders = [[batch.tolist() for batch in batches] for batches in plans]
    groups = [{frozenset(batch) for batch in order} for order in orders]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert groups[0] != groups[1]  # not only the order of the batches but also who meets whom


def test_short_and_long_batches_come_in_random_order():
    lengths = realistic(5000)
    means = [lengths[batch].mean() for batch in plan(lengths, 512)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_sources_of_equal_length_go_together():
    lengths = realistic(20_000)
    batches = plan(lengths, 4096)
    equal = [batch for batch in batches if len(np.unique(lengths[batch, 0])) == 1]
    assert sum(map(len, equal)) > 0.95 * len(lengths)
    # Of the targets, little is padding, since like lengths meet.
    padded = sum(len(batch) * lengths[batch, 1].max() for batch in batches)
    assert lengths[:, 1].sum() > 0.8 * padded  # in random batches it is less than half


def test_no_tiny_batch_for_each_length():
    lengths = [(n, n) for n in range(1, 41)]  # one pair of each length
    batches = plan(lengths, 400)
    assert len(batches) <= 4
    assert max(len(np.unique(batch)) for batch in batches) > 10
    lengths = realistic(20_000)
    tokens = sorted(len(batch) * lengths[batch].max() for batch in plan(lengths, 4096))
    assert tokens[1] >= 2048  # at most one batch is less than half full
    assert sum(tokens) > 0.9 * 4096 * len(tokens)


def test_merged_lengths_are_neighbours():
    lengths = [(n, n) for n in range(1, 41)]
    spans = sorted((int(batch.min()), int(batch.max())) for batch in plan(lengths, 400))
    assert all(high < low for (_, high), (low, _) in pairwise(spans))


def test_targets_are_sorted_inside_a_length():
    lengths = [(5, 1 + n % 20) for n in range(400)]
    ranges = sorted((min(lengths[i][1] for i in b), max(lengths[i][1] for i in b)) for b in plan(lengths, 100))
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges))


def test_a_pair_beyond_the_budget_is_a_batch_of_its_own():
    batches = plan([(3, 3), (50, 2), (3, 3), (2, 70)], 10)
    assert sorted(sorted(batch.tolist()) for batch in batches) == [[0, 2], [1], [3]]


def test_no_pairs_no_batches():
    assert list(plan([], 100)) == []
    with pytest.raises(UserError, match="max_tokens is 0"):
        plan([(1, 1)], 0)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 300 pairs, made of runs of 4."""
    monkeypatch.setattr(batches_module, "PAIRS_OF_BLOCK", 300)
    monkeypatch.setattr(batches_module, "PAIRS_OF_RUN", 4)


@pytest.mark.parametrize("pairs", [299, 300, 301, 302, 1000, 1203])
def test_block_by_block_every_pair_once_and_within_the_budget(small_blocks, pairs):
    lengths = realistic(pairs)
    planned = plan(lengths, 256)
    batches = list(planned)
    assert len(batches) == len(planned)
    assert sorted(np.concatenate(batches).tolist()) == list(range(pairs))
    assert all(len(batch) * lengths[batch].max() <= 256 or len(batch) == 1 for batch in batches)


def test_block_by_block_the_plan_is_a_function_of_seed_and_epoch(small_blocks):
    lengths = realistic(1000)
    plans = [[batch.tolist() for batch in plan(lengths, 256, *origin)] for origin in [(1, 0), (1, 0), (1, 1), (2, 0)]]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2] != plans[3] != plans[0]


def test_a_plan_may_be_entered_anywhere(small_blocks):
    """Training resumes in the middle of an epoch, at a step that may span two blocks."""
    lengths = realistic(1000)
    batches = [batch.tolist() for batch in plan(lengths, 256)]
    for size in (1, 3, 7):
        for start in range(0, len(batches), size):
            entered = plan(lengths, 256)[start : start + size]
            assert [batch.tolist() for batch in entered] == batches[start : start + size]
    backwards = plan(lengths, 256)
    assert [backwards[i].tolist() for i in range(-1, -len(batches) - 1, -1)] == batches[::-1]
    with pytest.raises(IndexError):
        backwards[len(batches)]


@given(
    pairs=st.integers(1, 1000),
    changes=st.lists(st.tuples(st.integers(20, 400), st.floats(0.0, 1.0)), min_size=1, max_size=4),
    budget=st.integers(20, 400),
    seed=SEEDS,
)
@settings(max_examples=30, deadline=None)
def test_every_pair_once_however_often_the_budget_changes(pairs, changes, budget, seed):
    """Some of the batches of one plan, some of a plan of what it left, …: in one block or over several."""
    lengths = realistic(pairs)
    for block in (300, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches_module, "PAIRS_OF_BLOCK", block)
            patch.setattr(batches_module, "PAIRS_OF_RUN", 4)
            planned, seen = plan(lengths, changes[0][0], seed), []
            for (_, share), (after, _) in zip(changes, [*changes[1:], (budget, 1.0)], strict=True):
                done = round(share * len(planned))
                seen += planned[:done]
                planned = planned.rest(done, after)
            assert all(len(batch) * lengths[batch].max() <= budget or len(batch) == 1 for batch in planned)
            seen += planned
        assert sorted(np.concatenate(seen).tolist()) == list(range(pairs))


def test_what_is_left_is_shared_out_alike_each_time():
    lengths = realistic(500)
    first, again = ([batch.tolist() for batch in plan(lengths, 256).rest(3, 100)] for _ in range(2))
    assert first == again
    assert [batch.tolist() for batch in plan(lengths, 256).rest(0, 100)] == [b.tolist() for b in plan(lengths, 100)]


def test_a_block_holds_other_pairs_in_each_epoch_drawn_from_the_whole_corpus(small_blocks):
    lengths = np.full((3000, 2), 5)  # 60 batches of 50 pairs; a block is six of them
    firsts = [np.concatenate(plan(lengths, 250, seed=1, epoch=epoch)[:6]) for epoch in range(2)]
    for first in firsts:
        assert len(first) == 300
        assert np.histogram(first, bins=10, range=(0, 3000))[0].min() > 0
        assert all(len(set(first.tolist()) & set(range(run, run + 4))) in (0, 4) for run in range(0, 3000, 4))
    assert len(np.intersect1d(*firsts)) < 100  # 30 by chance


def test_lengths_beyond_16_bits_are_not_taken_for_short_ones():
    lengths = np.array([(1, 1), (65_537, 2)] * 3)
    assert sorted(sorted(batch.tolist()) for batch in plan(lengths, 200_000)) == [[0, 2, 4], [1, 3, 5]]


@given(rows=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_pad_and_mask_give_the_rows_back(rows):
    tensor, mask = pad(rows, 1000)
    longest = max(map(len, rows))
    assert tensor.shape == (len(rows), longest)
    assert tensor.dtype == torch.int64
    if mask is None:
        assert all(len(row) == longest for row in rows)
        mask = torch.ones_like(tensor, dtype=torch.bool)
    else:
        assert not mask.all()
    assert [tensor[i, mask[i]].tolist() for i in range(len(rows))] == rows
    assert (tensor[~mask] == 1000).all()
    assert (mask[:, 1:] <= mask[:, :-1]).all()  # padding is on the right


def test_pad_takes_arrays_of_any_width():
    tensor, mask = pad([np.array([7, 8], np.uint16), np.array([60_000], np.uint16)], 0)
    assert tensor.tolist() == [[7, 8], [60_000, 0]]
    assert mask is not None
    assert mask.tolist() == [[True, True], [True, False]]


@pytest.fixture(scope="module")
def corpus_and_tokenizers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    pairs = [Pair("ab", "x"), Pair("ba", "x y z"), Pair("abab", "y z")]
    settings = TokenizerSettings(joint=False, source={"kind": "char"}, target={"kind": "word"})
    tokenizers = Tokenizers.learn(pairs, directory / "tokenizer", settings)
    # Special ids differ by side and are not 0, 1, 2: nothing may assume them.
    tokenizers.source.pad, tokenizers.target.pad, tokenizers.target.bos = 90, 91, 92
    return write_encoded(directory / "corpus", pairs, tokenizers, max_length=99), tokenizers


def test_collate_with_padding(corpus_and_tokenizers):
    corpus, tokenizers = corpus_and_tokenizers
    (x, y, z), eos = tokenizers.target.encode(["x y z"])[0], tokenizers.target.eos
    (a, b), source_eos = tokenizers.source.encode(["ab"])[0], tokenizers.source.eos
    batch = collate(corpus, np.array([0, 2]), tokenizers)
    assert batch.source.tolist() == [[a, b, source_eos, 90, 90], [a, b, a, b, source_eos]]
    assert batch.source_mask.tolist() == [[True, True, True, False, False], [True] * 5]
    assert batch.target_input.tolist() == [[92, x, 91], [92, y, z]]
    assert batch.target_output.tolist() == [[x, eos, 91], [y, z, eos]]
    assert batch.target_mask.tolist() == [[True, True, False], [True] * 3]
    assert batch.num_target_tokens == 5


def test_collate_makes_no_mask_that_is_not_needed(corpus_and_tokenizers):
    corpus, tokenizers = corpus_and_tokenizers
    batch = collate(corpus, [0, 1], tokenizers)  # sources equally long
    assert batch.source_mask is None
    assert batch.target_mask is not None
    alone = collate(corpus, [1], tokenizers)
    assert alone.source_mask is None
    assert alone.target_mask is None
    assert alone.num_target_tokens == alone.target_output.numel() == 4


@pytest.mark.parametrize("rows", [[0, 2], [0, 1], [1]])
def test_ids_make_the_batch_that_their_corpus_makes(corpus_and_tokenizers, rows):
    corpus, tokenizers = corpus_and_tokenizers
    ids = [[side(row).tolist() for row in rows] for side in (corpus.source, corpus.target)]
    found = forced_batch(*ids, tokenizers)
    expected = collate(corpus, rows, tokenizers)
    for name, value in vars(expected).items():
        assert (torch.equal if torch.is_tensor(value) else operator.eq)(vars(found)[name], value), name


def test_a_batch_moves_whole(corpus_and_tokenizers):
    corpus, tokenizers = corpus_and_tokenizers
    for rows in ([0, 1], [0, 2], [2]):
        batch = collate(corpus, rows, tokenizers)
        moved = batch.to("meta", non_blocking=True)
        assert moved.num_target_tokens == batch.num_target_tokens
        for name in ("source", "source_mask", "target_input", "target_output", "target_mask"):
            before, after = getattr(batch, name), getattr(moved, name)
            assert (before is None) == (after is None)
            if after is not None:
                assert after.device.type == "meta"
                assert after.shape == before.shape


def pairs_of(source_lengths, target_lengths):
    """A batch of random tokens."""
    source, source_mask = pad([[3 + n % 5 for n in range(length)] for length in source_lengths], 0)
    output, mask = pad([[4 + n % 7 for n in range(length)] for length in target_lengths], 0)
    shifted = torch.full_like(output, 1)
    shifted[:, 1:] = output[:, :-1]
    return Batch(source, source_mask, shifted, output, mask, sum(target_lengths))


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([5] * 12, list(range(2, 14))),
        ([5, 2, 9, 1, 5, 5, 5], [3, 9, 9, 1, 2, 2, 30]),
        ([4] * 8, [6] * 8),
        ([1], [1]),
        ([3, 3], [40, 1]),
    ],
    ids=str,
)
def test_parts_of_a_batch_are_its_rows_and_no_wider_than_they_must_be(sources, targets, parts):
    whole = pairs_of(sources, targets)
    divided = whole.split(parts)
    assert len(divided) == min(parts, len(sources))
    assert sum(part.num_target_tokens for part in divided) == whole.num_target_tokens
    row = 0
    for part in divided:
        rows = len(part.source)
        expected = pairs_of(sources[row : row + rows], targets[row : row + rows])
        for name in ("source_mask", "target_mask", "target_output", "source"):
            found, wanted = getattr(part, name), getattr(expected, name)
            assert found is None if wanted is None else torch.equal(found, wanted)
        real = ... if part.target_mask is None else part.target_mask
        assert torch.equal(part.target_input[real], expected.target_input[real])
        assert part.num_target_tokens == expected.num_target_tokens
        row += rows
    assert row == len(sources)


def test_parts_of_a_batch_take_about_as_long_as_each_other():
    targets = sorted(range(4, 34)) * 4
    work = [
        len(part.source) * 10 + 2 * part.num_target_tokens for part in pairs_of([10] * 120, sorted(targets)).split(4)
    ]
    assert max(work) < 1.1 * min(work)


def test_shapes_are_checked(corpus_and_tokenizers):
    corpus, tokenizers = corpus_and_tokenizers
    good = collate(corpus, [0, 1], tokenizers)
    with pytest.raises(TypeError):
        Batch(good.source[:1], None, good.target_input, good.target_output, good.target_mask, 6)
