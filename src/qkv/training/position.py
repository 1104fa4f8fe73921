"""Where in an epoch training stands: in pairs, whatever the size of the batches that they came in."""

from qkv.run.checkpoint import TrainingState
from qkv.text.batches import BatchPlan
from qkv.text.encoded import EncodedCorpus


def rest_of_epoch(state: TrainingState, corpus: EncodedCorpus, batch_tokens: int, seed: int) -> BatchPlan:
    """The plan whose batches `state.batch` counts: of the whole epoch while batches have one size.

    Where an epoch goes on with another size, the plan is of the pairs that it has left, and the state says so.
    """
    if state.batch and state.batch_tokens not in (0, batch_tokens):
        state.dealt = [*state.dealt, [state.batch_tokens, state.batch, state.batches_per_epoch]]
        state.batch = 0
    state.batch_tokens = batch_tokens
    budgets = [*(budget for budget, _, _ in state.dealt), batch_tokens]
    lengths = corpus.source_lengths, corpus.target_lengths
    plan = BatchPlan(*lengths, budgets[0], seed=seed, epoch=state.epoch)
    for (_, done, _), budget in zip(state.dealt, budgets[1:], strict=True):
        plan = plan.rest(done, budget)
    state.batches_per_epoch = len(plan)
    return plan
