"""What greedy and beam search share: one decoder step, and sentences that leave when they are done."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.decoding.options import SearchOptions
from qkv.decoding.scoring import log_softmax
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq


class Progress:
    """A batch of sentences on its way through the decoder, one token per step.

    The source is encoded, and the memory's keys and values are computed, once, here. Finished sentences are
    dropped from memory and state, but not one by one: see `worth_compacting`.

    Args:
        model: in eval mode.
        source: token ids, right-padded.
        source_mask: True = a real token; None when no row is padded.
        bos: the token that every output begins with.
        eos: the token that ends an output.
        pad: is never emitted, nor is `bos`, unless a vocabulary uses one token for beginning and end.
        options: how to search.
        prefix: tokens that every output begins with; their log-probabilities count as those of any others.
        allowed: for each sentence the tokens that its outputs may be made of, eos among them: all, if not given.

    Attributes:
        sentences: index in the batch of each sentence that is still carried along.
        limits: for every sentence of the batch, the longest output allowed: with a prefix, at least one token more.

    Raises:
        UserError: if no output can begin with the prefix.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Seq2Seq,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        *,
        bos: int,
        eos: int,
        pad: int | None = None,
        options: SearchOptions = SearchOptions(),
        prefix: Sequence[int] = (),
        allowed: Bool[Tensor, "batch vocab"] | None = None,
    ):
        check_prefix(prefix, bos, eos, pad, model)
        batch, width = source.shape
        lengths = source.new_full((batch,), width) if source_mask is None else source_mask.sum(dim=1)
        self.limits = [max(limit, len(prefix) + 1) for limit in options.length_limits(lengths.tolist(), model.longest)]
        self.sentences = list(range(batch))
        self.bos, self.eos, self.options, self.device = bos, eos, options, source.device
        self._forbidden = [token for token in (bos, pad) if token is not None and token != eos]
        self._model, self._prefix = model, list(prefix)
        self._hidden = None if allowed is None else ~allowed
        self._memory = model.encode(source, source_mask)
        self._state = model.start(self._memory)

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Log-probabilities of the next token after each row's newest one; forbidden tokens have none (-inf).

        As long as a prefix lasts, all but its next token are forbidden. Probabilities are normalised over the
        whole vocabulary, so that a search and `score_targets` agree; or over the tokens that a sentence is allowed.
        """
        position = self._state.length
        hidden = self._model.decode(tokens[:, None], self._memory, self._state)
        logits = self._model.project(hidden[:, -1])
        if self._hidden is not None:
            logits.unflatten(0, (len(self._hidden), -1)).masked_fill_(self._hidden[:, None], -torch.inf)
        log_probabilities = log_softmax(logits)
        for token in self._forbidden:
            log_probabilities[:, token] = -torch.inf
        if position < len(self._prefix):
            forced = self._prefix[position]
            log_probabilities = torch.full_like(log_probabilities, -torch.inf).index_copy_(
                1, tokens.new_tensor([forced]), log_probabilities[:, [forced]]
            )
        return log_probabilities

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Row i continues what row `rows[i]` was."""
        self._state.reorder(rows)

    def keep(self, positions: Int[Tensor, " kept"]) -> None:
        """Carry on with the sentences at these positions of `sentences` only."""
        self.sentences = [self.sentences[position] for position in positions.tolist()]
        self._memory = self._memory.keep(positions)
        self._state.keep(positions)
        if self._hidden is not None:
            self._hidden = self._hidden[positions]


def worth_compacting(live: int, carried: int) -> bool:
    """Whether to drop finished sentences: a copy of all that is left costs more than a few idle rows."""
    return 4 * live <= 3 * carried


def check_prefix(prefix: Sequence[int], bos: int, eos: int, pad: int | None, model: Seq2Seq) -> None:
    """`UserError` if a prefix holds a special or unknown id, or leaves no room for the end of sentence."""
    vocabulary = model.output.out_features
    for token in prefix:
        if token in (bos, eos, pad) or not 0 <= token < vocabulary:
            raise UserError(f"a prefix cannot hold token {token}: it takes the vocabulary's, without special ones")
    if model.longest is not None and len(prefix) >= model.longest:
        raise UserError(f"a prefix of {len(prefix)} tokens is too long: the model has {model.longest} positions")
