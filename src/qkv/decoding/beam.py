"""Beam search: the best few beginnings are followed at once (Sutskever et al. 2014, section 3.2)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.decoding.beam_tree import BeamRecord, Reason
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.ranking import best_extensions
from qkv.decoding.steps import Progress, worth_compacting


@torch.inference_mode()
def beam_search(progress: Progress, record: BeamRecord | None = None) -> list[list[Hypothesis]]:
    """Follow the `options.beam` most probable beginnings and return the best endings found.

    Every step extends each live hypothesis by every token. Of all these candidates, those that end with `eos`
    and are among the best `beam` are finished, and the best `beam` that do not end live on. See `Endings` for
    when a sentence is done.

    Args:
        progress: sentences that have not begun.
        record: is told of every candidate of every step if given.

    Returns:
        For each row its n best hypotheses, best first (fewer if a tiny vocabulary does not yield as many).
    """
    options, device, batch = progress.options, progress.device, len(progress.sentences)
    beam = options.beam
    endings = [Endings(limit, options) for limit in progress.limits]
    # A sentence begins with a beam of one, which widens as soon as there are enough candidates.
    tokens = torch.full((batch, 1, 1), progress.bos, device=device)  # (sentence, beam, length)
    log_probabilities = torch.zeros(batch, 1, device=device)  # of these beginnings: (sentence, beam)

    while True:
        carried = [endings[sentence] for sentence in progress.sentences]
        width = tokens.shape[1]
        gains = progress.step(tokens[:, :, -1].flatten()).unflatten(0, (-1, width))
        best, parents, newest = best_extensions(gains, log_probabilities, 2 * beam)

        ends = newest == progress.eos
        finished = (ends & (best > -torch.inf))[:, :beam]
        for row, rank in finished.nonzero().tolist():
            carried[row].add(tokens[row, parents[row, rank], 1:], best[row, rank].item())

        # At most `beam` of the 2 × beam candidates end (one for each parent), so enough of them live on.
        log_probabilities, ranks = best.masked_fill(ends, -torch.inf).topk(min(beam, best.shape[1]))
        if record is not None:
            for row, ending in enumerate(carried):
                if not ending.settled:
                    record.add(progress.sentences[row], best[row], parents[row], newest[row], finished[row], ranks[row])
        parents, newest = parents.gather(1, ranks), newest.gather(1, ranks)
        continued = tokens.gather(1, parents[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([continued, newest[:, :, None]], dim=2)
        for row, most_probable in enumerate(log_probabilities[:, 0].tolist()):
            if not carried[row].settled:
                carried[row].settle(tokens[row, :, 1:], log_probabilities[row], most_probable)
                if record is not None and carried[row].settled:
                    record.end(progress.sentences[row], carried[row].reason)

        live = [row for row, ending in enumerate(carried) if not ending.settled]
        if not live:
            return [ending.n_best() for ending in endings]
        if worth_compacting(len(live), len(carried)):
            kept = torch.tensor(live, device=device)
            progress.keep(kept)
            tokens, log_probabilities, parents = tokens[kept], log_probabilities[kept], parents[kept]
        first_rows = torch.arange(parents.shape[0], device=device)[:, None] * width
        progress.reorder((first_rows + parents).flatten())


class Endings:
    """The hypotheses of one sentence that have ended, and whether more are worth waiting for.

    Attributes:
        reason: why the sentence is done; None as long as it is not. See `BeamTree.reason`.
    """

    def __init__(self, limit: int, options: SearchOptions):
        self.reason: Reason | None = None
        self._limit, self._options = limit, options
        self._finished: list[Hypothesis] = []  # best first
        self._cut_off: list[Hypothesis] = []

    @property
    def settled(self) -> bool:
        """Whether the sentence is done; nothing is added any more."""
        return self.reason is not None

    def add(self, tokens: Int[Tensor, " length"], log_probability: float) -> None:
        """Take in a hypothesis that has just ended; `tokens` do not include its end."""
        if not self.settled:
            score = self._options.score(log_probability, len(tokens) + 1)
            self._finished.append(Hypothesis(tokens.tolist(), score, log_probability, finished=True))
            self._finished.sort(key=lambda hypothesis: hypothesis.score, reverse=True)

    def settle(
        self,
        tokens: Int[Tensor, "beam length"],
        log_probabilities: Float[Tensor, " beam"],
        most_probable: float,
    ) -> None:
        """Decide whether the sentence is done, given the hypotheses that live on. It is when

        - as many hypotheses have ended as the beam is wide, or
        - no live one can rank among the n best any more, even if all its further tokens were certain, or
        - the length limit is reached. If fewer than n have ended by then, the best of those cut off fill up.
        """
        if self.settled:
            return
        options, length = self._options, tokens.shape[1]
        enough = len(self._finished) >= options.n_best
        if len(self._finished) >= options.beam:
            self.reason = "full"
        elif self.is_hopeless(most_probable):
            self.reason = "hopeless"
        elif length == self._limit:
            self.reason = "limit"
        if self.settled and not enough:
            for alive, log_probability in zip(tokens.tolist(), log_probabilities.tolist(), strict=True):
                if log_probability != -math.inf:
                    score = options.score(log_probability, length)
                    self._cut_off.append(Hypothesis(alive, score, log_probability, finished=False))

    def is_hopeless(self, most_probable: float) -> bool:
        """Whether no live hypothesis can rank among the n best any more; `most_probable` is the best of them.

        A log-probability only falls, and it counts least against the longest output.
        """
        if len(self._finished) < self._options.n_best:
            return False
        return self._options.score(most_probable, self._limit) <= self._finished[self._options.n_best - 1].score

    def n_best(self) -> list[Hypothesis]:
        """The n best, those that ended first: one that repeats itself until it is cut off often scores better."""
        return (self._finished + self._cut_off)[: self._options.n_best]
