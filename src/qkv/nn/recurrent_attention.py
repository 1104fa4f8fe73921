"""Attention before the Transformer: a decoder state is the query, and one network scores it against every source.

The states of the source are both what is compared (after a projection) and what is gathered: there is one head, and
the values are the states themselves.
"""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.nn.attention import attention_weights

AlignmentKind = Literal["additive", "dot", "general"]


class Alignment(nn.Module, ABC):
    """softmax(score(query, key)) · states; what differs between the kinds is the score."""

    def project(self, states: Float[Tensor, "batch source d_model"]) -> Float[Tensor, "batch source d_model"]:
        """The keys: whatever of the score depends on the source alone, computed once for all target tokens."""
        return states

    @abstractmethod
    def score(
        self, query: Float[Tensor, "batch query d_model"], key: Float[Tensor, "batch source d_model"]
    ) -> Float[Tensor, "batch query source"]:
        """How well each query fits each key."""

    def forward(
        self,
        query: Float[Tensor, "rows target d_model"],
        key: Float[Tensor, "batch source d_model"],
        states: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "batch source"] | None = None,
    ) -> tuple[Float[Tensor, "rows target d_model"], Float[Tensor, "rows target source"]]:
        """What each query retrieves, and its weights.

        Args:
            query: decoder states; their rows are the memory's, or several adjacent ones (beams) for each.
            key: the source's states as `project` made them.
            states: the source's states, which are gathered.
            mask: True = may be attended to.
        """
        # A sentence's beams are more queries to the same memory, which is not copied.
        scores = self.score(query.reshape(key.shape[0], -1, query.shape[-1]), key)
        weights = attention_weights(scores, None if mask is None else mask[:, None, :])
        return (weights @ states).reshape(query.shape), weights.reshape(*query.shape[:2], -1)


class AdditiveAttention(Alignment):
    """score = vᵀ tanh(W query + U key): a small network judges the fit (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, d_model: int):
        super().__init__()
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model)
        self.energy = nn.Linear(d_model, 1, bias=False)

    def project(self, states: Float[Tensor, "batch source d_model"]) -> Float[Tensor, "batch source d_model"]:
        """U · states"""
        return self.key(states)

    def score(
        self, query: Float[Tensor, "batch query d_model"], key: Float[Tensor, "batch source d_model"]
    ) -> Float[Tensor, "batch query source"]:
        """Every query is added to every key, hence the name."""
        pairs = self.query(query)[:, :, None, :] + key[:, None, :, :]
        return self.energy(pairs.tanh()).squeeze(-1)


class DotAttention(Alignment):
    """score = query · key: a matrix product, nothing to learn (Luong et al. 2015, section 3.1)."""

    def score(
        self, query: Float[Tensor, "batch query d_model"], key: Float[Tensor, "batch source d_model"]
    ) -> Float[Tensor, "batch query source"]:
        """All scores in one product. The Transformer divides them by √d_model, which Luong did not."""
        return query @ key.transpose(1, 2)


class GeneralAttention(DotAttention):
    """score = query · W key: states of encoder and decoder need not live in one space (Luong et al. 2015)."""

    def __init__(self, d_model: int):
        super().__init__()
        self.key = nn.Linear(d_model, d_model, bias=False)

    def project(self, states: Float[Tensor, "batch source d_model"]) -> Float[Tensor, "batch source d_model"]:
        """W · states"""
        return self.key(states)


def make_alignment(kind: AlignmentKind, d_model: int) -> Alignment:
    """An attention of the given kind."""
    if kind == "additive":
        return AdditiveAttention(d_model)
    return GeneralAttention(d_model) if kind == "general" else DotAttention()
