"""Each pair is seen once an epoch, wherever training stops and whatever size batches have when it goes on."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.run.changes import check_changes
from qkv.run.checkpoint import TrainingState, read_state
from qkv.text.batches import BatchPlan, collate
from qkv.training import trainer as trainer_module
from qkv.training.position import rest_of_epoch
from qkv.training.trainer import resume, train

pytestmark = pytest.mark.usefixtures("without_shape_checks")

SITTINGS = st.lists(
    st.tuples(st.integers(20, 300), st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=5
)  # batch_tokens, accumulate, steps


def corpus_of(pairs):
    generator = np.random.default_rng(pairs)
    lengths = 1 + generator.poisson(6, (2, pairs))
    return SimpleNamespace(source_lengths=lengths[0], target_lengths=lengths[1])


def sitting(state, corpus, batch_tokens, accumulate, steps):
    """What `Trainer` does, without a model: (epoch, pairs) of every step; the state goes through JSON, as a file's."""
    while steps:
        if 0 < state.batches_per_epoch <= state.batch:
            state.epoch, state.batch, state.dealt = state.epoch + 1, 0, []
        plan = rest_of_epoch(state, corpus, batch_tokens, seed=1)
        while steps and state.batch < len(plan):
            group = plan[state.batch : state.batch + accumulate]
            state.batch, steps = state.batch + len(group), steps - 1
            yield state.epoch, np.concatenate(group).tolist()


@given(pairs=st.integers(1, 120), sittings=SITTINGS)
@settings(deadline=None)
def test_pairs_are_seen_once_an_epoch(pairs, sittings):
    corpus, state, seen, passes = corpus_of(pairs), TrainingState(), {}, [0.0]
    for given_ in sittings:
        for epoch, indices in sitting(state, corpus, *given_):
            seen.setdefault(epoch, []).extend(indices)
            passes.append(state.passes)
        state = TrainingState(**json.loads(json.dumps(dataclasses.asdict(state))))
    assert passes == sorted(passes), "the share of the run that is over never falls"
    for epoch, indices in seen.items():
        assert len(indices) == len(set(indices)), "none twice"
        if epoch < state.epoch or state.batch == state.batches_per_epoch:
            assert sorted(indices) == list(range(pairs)), "none left out"
            assert state.epoch > epoch or state.passes == pytest.approx(epoch + 1)


@given(pairs=st.integers(1, 120), batch_tokens=st.integers(20, 300), steps=st.lists(st.integers(1, 9), max_size=4))
@settings(deadline=None)
def test_with_one_size_the_batches_are_those_of_one_plan(pairs, batch_tokens, steps):
    """A checkpoint of before the size was written down goes on with them, too."""
    corpus, state, seen = corpus_of(pairs), TrainingState(), []
    for count in steps:
        seen += sitting(state, corpus, batch_tokens, 1, count)
        state.batch_tokens = 0
    lengths, plans = (corpus.source_lengths, corpus.target_lengths), []
    for epoch in range(state.epoch + 1):
        plan = BatchPlan(*lengths, batch_tokens, seed=1, epoch=epoch)
        plans += [(epoch, indices.tolist()) for indices in plan]
    assert seen == plans[: len(seen)]
    assert state.dealt == []


@pytest.mark.parametrize("override", ["training.batch_tokens=60", "training.batch_tokens=400", "training.accumulate=3"])
def test_a_run_goes_on_with_batches_of_another_size(recipe, monkeypatch, override):
    """Stopped in mid-epoch, and again after the change."""
    seen = []

    def noted(corpus, indices, tokenizers):
        seen.extend(int(index) for index in indices)
        return collate(corpus, indices, tokenizers)

    monkeypatch.setattr(trainer_module, "collate", noted)
    run = train(recipe(training={"steps": 3}), progress=False)
    state = read_state(run.checkpoints()[-1])
    assert 0 < state.batch < state.batches_per_epoch
    resume(run.path, [override, "training.steps=5"], progress=False)
    resume(run.path, ["training.steps=null", "training.epochs=1"], progress=False)
    assert sorted(seen) == list(range(160))
    key, _, value = override.partition("=")
    assert run.config.model_dump()["training"][key.removeprefix("training.")] == int(value)


def test_an_older_checkpoint_in_mid_epoch_keeps_its_batches(config):
    """It does not say by which size its batches were counted, and config.yaml may be newer than it."""
    before, now = config(), config(training={"batch_tokens": 300})
    with pytest.raises(
        UserError, match=r"^training\.batch_tokens is 150 .* cannot become 300 in the middle .*older qkv"
    ):
        check_changes(before, now, TrainingState(batch=3, batches_per_epoch=9))
    check_changes(before, now, TrainingState(batch=9, batches_per_epoch=9))
    check_changes(before, now, TrainingState(batch=3, batches_per_epoch=9, batch_tokens=150))
    check_changes(before, config(training={"accumulate": 4}), TrainingState(batch=3, batches_per_epoch=9))
