"""A shortlist: the target tokens that a batch of sources makes likely, the only ones that decoding then looks at.

Projecting on the whole vocabulary is near half of a small model's work. Which tokens translate which is learnt from
the training pairs by IBM model 1 (Brown et al. 1993, "The mathematics of statistical machine translation", section 4).
A batch is projected on the union over its sources (Jean et al. 2015, "On using very large target vocabulary for neural
machine translation", section 3.2), of which each source then sees its own list only: what is found for it does not
depend on the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qkv.decoding.cpu.linear_maps import MadeLinear
from qkv.decoding.hypothesis import Hypothesis
from qkv.errors import UserError
from qkv.files import write_bytes
from qkv.nn.seq2seq import AttentionRecord, Cache, Memory, Seq2Seq
from qkv.text.encoded import EncodedCorpus
from qkv.text.tokenizer import Tokenizers

_FREQUENT = 1000  # the commonest target tokens are on every shortlist
_ITERATIONS = 3
_MAX_ALIGNED = 20_000_000  # (source token, target token) places learnt from, at most: 160 MB each of a few arrays


class Shortlist:
    """For each source token the likeliest target tokens.

    Args:
        candidates: their ids, by source token; filled up with ids that are on every shortlist anyway.
        always: ids that are on every shortlist.
    """

    def __init__(self, candidates: Int[Tensor, "source_vocab count"], always: Int[Tensor, " frequent"]):
        self.candidates, self.always = candidates.to(torch.int64), always.to(torch.int64)

    def of(self, source: Int[Tensor, "batch source"]) -> Int[Tensor, " tokens"]:
        """Ids of the target tokens that any of these sources makes likely, in ascending order."""
        found = self.candidates.to(source.device)[source.unique()].flatten()
        return torch.cat((found, self.always.to(source.device))).unique()

    def allowed(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None,
        tokens: Int[Tensor, " tokens"],
        prefix: Sequence[int] = (),
    ) -> Bool[Tensor, "batch tokens"]:
        """For each source, which of the tokens are on its own list; these are what `of` said, and those of a prefix."""
        if source_mask is not None:
            source = torch.where(source_mask, source, source[:, :1])  # padding makes nothing likely
        own = torch.searchsorted(tokens, self.candidates.to(source.device)[source].flatten(1))
        shared = torch.searchsorted(tokens, torch.cat((self.always.to(source.device), source.new_tensor(prefix))))
        found = torch.zeros(len(source), len(tokens), dtype=torch.bool, device=source.device).scatter_(1, own, True)
        found[:, shared] = True
        return found

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_bytes(path, save({"candidates": self.candidates.to(torch.int32), "always": self.always.to(torch.int32)}))

    @classmethod
    def load(cls, path: Path) -> "Shortlist":
        """Read what `save` has written; `UserError` if it is damaged."""
        try:
            tensors = load_file(path)
            return cls(tensors["candidates"], tensors["always"])
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path}: not a shortlist ({error}); delete it, and it is made anew") from None


def learn_shortlist(
    corpus: EncodedCorpus, source_vocabulary: int, target_vocabulary: int, count: int, special: Sequence[int]
) -> Shortlist:
    """Learn which target tokens translate each source token: the `count` most probable ones, by IBM model 1.

    Of a large corpus evenly spaced pairs are taken. Ids that are `special` (beginning and end, padding, unknown) are on
    every shortlist.
    """
    sizes = corpus.source_lengths.astype(np.int64) * corpus.target_lengths
    step = max(1, -(-int(sizes.sum()) // _MAX_ALIGNED))
    chosen = np.arange(0, len(corpus), step)
    frequencies = np.zeros(target_vocabulary, np.int64)
    for index in chosen:
        np.add.at(frequencies, corpus.target(index), 1)
    pairs, probabilities = _model_1(corpus, chosen, target_vocabulary)
    sources, targets = np.divmod(pairs, target_vocabulary)

    always = np.union1d(np.argsort(-frequencies, kind="stable")[:_FREQUENT], np.asarray(special, np.int64))
    candidates = np.full((source_vocabulary, count), always[0], np.int64)
    order = np.lexsort((-probabilities, sources))
    sources, targets = sources[order], targets[order]
    rank = np.arange(len(sources)) - np.searchsorted(sources, sources)
    kept = rank < count
    candidates[sources[kept], rank[kept]] = targets[kept]
    return Shortlist(torch.from_numpy(candidates), torch.from_numpy(always))


def _model_1(
    corpus: EncodedCorpus, chosen: npt.NDArray[np.int64], target_vocabulary: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(source × target_vocabulary + target, probability of the target given the source) of all that occur together."""
    places, groups, first = [], [], 0
    for index in chosen:
        source, target = corpus.source(index).astype(np.int64), corpus.target(index).astype(np.int64)
        places.append((source[None] * target_vocabulary + target[:, None]).ravel())
        groups.append(np.repeat(np.arange(first, first + len(target), dtype=np.int32), len(source)))
        first += len(target)
    pairs, which = np.unique(np.concatenate(places), return_inverse=True)
    group = np.concatenate(groups)  # the target position that a place explains
    source_of = pairs // target_vocabulary
    probabilities = np.ones(len(pairs))
    for _ in range(_ITERATIONS):
        share = probabilities[which]
        share /= np.bincount(group, share)[group]
        counts = np.bincount(which, share)
        probabilities = counts / np.bincount(source_of, counts)[source_of]
    return pairs, probabilities


def open_shortlist(path: Path, encoded: Path, tokenizers: Tokenizers, count: int) -> Shortlist:
    """A shortlist of so many target tokens for each source token: learnt when it is first asked for, and kept.

    It is kept at `path`, and learnt from the directory of `encoded` training pairs. `UserError` if these are gone, or
    what is kept is damaged.
    """
    source, target = tokenizers.source, tokenizers.target
    if path.is_file():
        kept = Shortlist.load(path)
        # Lists once were shorter, as a batch's was that of all its sources.
        if len(kept.always) >= min(_FREQUENT, target.vocab_size) or not encoded.is_dir():
            return kept
    special = [target.bos, target.eos, target.pad, target.unk]
    shortlist = learn_shortlist(EncodedCorpus.open(encoded), source.vocab_size, target.vocab_size, count, special)
    shortlist.save(path)
    return shortlist


class Shortlisted(Seq2Seq):
    """A model whose target vocabulary is a shortlist: token i is the model's `tokens[i]`.

    Log-probabilities are normalised over the shortlist, so they are a little higher than the model's own.

    Args:
        model: in eval mode.
        tokens: ids on the shortlist, in ascending order.
    """

    def __init__(self, model: Seq2Seq, tokens: Int[Tensor, " tokens"]):
        super().__init__()
        self.model, self.tokens, self.longest = model, tokens, model.longest
        output = model.output
        made = output if isinstance(output, MadeLinear) else MadeLinear(output.weight, output.bias)
        self.output = cast(nn.Linear, made.rows(tokens))  # as good as one for whoever projects

    def encode(
        self, source: Tensor, source_mask: Tensor | None = None, record: AttentionRecord | None = None
    ) -> Memory:
        """See `Seq2Seq.encode`."""
        return self.model.encode(source, source_mask, record)

    def start(self, memory: Memory) -> Cache:
        """See `Seq2Seq.start`."""
        return self.model.start(memory)

    def decode(
        self, target: Tensor, memory: Memory, cache: Cache | None = None, record: AttentionRecord | None = None
    ) -> Tensor:
        """See `Seq2Seq.decode`."""
        return self.model.decode(self.tokens[target], memory, cache, record)

    def place(self, token: int) -> int:
        """Where a token of the model stands on the shortlist, which it must be on."""
        return int(torch.searchsorted(self.tokens, token))

    def restore(self, found: Sequence[Sequence[Hypothesis]]) -> list[list[Hypothesis]]:
        """What a search has found, in the model's own ids."""
        tokens = self.tokens.tolist()
        return [[replace(best, tokens=[tokens[place] for place in best.tokens]) for best in row] for row in found]
