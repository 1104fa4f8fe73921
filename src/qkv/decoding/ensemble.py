"""Several models that decide together: each token's log-probability is the mean of what all of them say.

They may be of any architectures, as long as they share their vocabularies: to a search an ensemble is one more model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.decoding.scoring import log_softmax
from qkv.nn.seq2seq import AttentionRecord, Cache, Memory, Seq2Seq


@dataclass
class EnsembleMemory(Memory):
    """What each model's encoder hands on; `states` are the first's.

    Attributes:
        parts: of all models, in their order.
    """

    parts: list[Memory] = field(kw_only=True)

    def keep(self, sentences: Int[Tensor, " kept"]) -> "EnsembleMemory":
        """See `Memory.keep`."""
        parts = [part.keep(sentences) for part in self.parts]
        return EnsembleMemory(parts[0].states, parts[0].mask, parts=parts)


class EnsembleCache(Cache):
    """A cache of each model."""

    def __init__(self, parts: Sequence[Cache]):
        self.parts = parts

    @property
    def length(self) -> int:
        """See `Cache.length`."""
        return self.parts[0].length

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Cache.reorder`."""
        for part in self.parts:
            part.reorder(rows)

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `Cache.keep`."""
        for part in self.parts:
            part.keep(sentences)


class Ensemble(Seq2Seq):
    """Models with one vocabulary for each side, as one.

    Args:
        models: in eval mode, on one device.

    Raises:
        ValueError: if there are none, or their numbers of target tokens differ.
    """

    def __init__(self, models: Sequence[Seq2Seq]):
        super().__init__()
        if len({model.output.out_features for model in models}) != 1:
            raise ValueError("an ensemble takes models with one target vocabulary")
        self.models = nn.ModuleList(models)
        limits = [model.longest for model in models if model.longest is not None]
        self.longest = min(limits) if limits else None

    @property
    def members(self) -> list[Seq2Seq]:
        """The models."""
        return [cast(Seq2Seq, model) for model in self.models]

    @property
    def output(self) -> nn.Linear:  # type: ignore[override]  # it tells of how many tokens there are
        """The first model's."""
        return self.members[0].output

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        record: AttentionRecord | None = None,
    ) -> EnsembleMemory:
        """See `Seq2Seq.encode`; every model's weights are recorded."""
        parts = [model.encode(source, source_mask, record) for model in self.members]
        return EnsembleMemory(parts[0].states, parts[0].mask, parts=parts)

    def start(self, memory: Memory) -> EnsembleCache:
        """See `Seq2Seq.start`."""
        parts = cast(EnsembleMemory, memory).parts
        return EnsembleCache([model.start(part) for model, part in zip(self.members, parts, strict=True)])

    def decode(
        self,
        target: Int[Tensor, "rows target"],
        memory: Memory,
        cache: Cache | None = None,
        record: AttentionRecord | None = None,
    ) -> Float[Tensor, "rows target d_models"]:
        """The hidden vectors of all models, side by side."""
        parts = cast(EnsembleMemory, memory).parts
        caches = [None] * len(parts) if cache is None else cast(EnsembleCache, cache).parts
        hidden = [
            model.decode(target, part, own, record)
            for model, part, own in zip(self.members, parts, caches, strict=True)
        ]
        return torch.cat(hidden, dim=-1)

    def project(self, hidden: Float[Tensor, "*rows d_models"]) -> Float[Tensor, "*rows vocab"]:
        """The mean of the models' log-probabilities: logits, as they do not sum to one."""
        widths = [model.output.in_features for model in self.members]
        said = zip(self.members, hidden.split(widths, dim=-1), strict=True)
        return torch.stack([log_softmax(model.project(own)) for model, own in said]).mean(dim=0)
