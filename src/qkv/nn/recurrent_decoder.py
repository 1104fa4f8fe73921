"""Three recurrent decoders, which differ in one thing: what each step knows of the source."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.nn.dropout import Dropout
from qkv.nn.recurrence import Cell, Hidden, Recurrence, state_parts
from qkv.nn.recurrent_attention import AlignmentKind, make_alignment
from qkv.nn.seq2seq import CountingCache, Memory


@dataclass
class RecurrentMemory(Memory):
    """States of the source, and their summary.

    Attributes:
        summary: the whole source in one vector: all that a decoder with a fixed context ever sees.
    """

    summary: Float[Tensor, "batch d_model"] = field(kw_only=True)


class RecurrentState(CountingCache):
    """A decoder's hidden state, whose size does not grow with what was decoded.

    Attributes:
        hidden: of all layers.
        key: the source's states, projected for attention once; None without attention.
        fed: what the step before has attended to, for decoders that feed it on.
    """

    def __init__(
        self,
        hidden: Hidden,
        key: Float[Tensor, "batch source d_model"] | None = None,
        fed: Float[Tensor, "rows 1 d_model"] | None = None,
    ):
        super().__init__(sentences=hidden[0].shape[1])
        self.hidden, self.key, self.fed = hidden, key, fed

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Cache.reorder`."""
        self.rows = len(rows)
        self.hidden = tuple(part.index_select(1, rows) for part in self.hidden)
        if self.fed is not None:
            self.fed = self.fed.index_select(0, rows)

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `Cache.keep`."""
        super().keep(sentences)
        if self.key is not None:
            self.key = self.key.index_select(0, sentences)


class RecurrentDecoder(nn.Module, ABC):
    """Starts from the source's summary, and ends each step with tanh(W [state; context]) (Luong et al. 2015, eq. 5)."""

    def __init__(self, cell: Cell, d_model: int, layers: int, *, dropout: float = 0.0):
        super().__init__()
        self.layers, self.parts = layers, state_parts(cell)
        self.bridge = nn.Linear(d_model, self.parts * layers * d_model)
        self.combine = nn.Linear(2 * d_model, d_model)
        self.dropout = Dropout(dropout)

    def start(self, memory: RecurrentMemory) -> RecurrentState:
        """The state before the first token, made from the summary (Bahdanau et al. 2015, appendix A.2.2)."""
        begin = self.bridge(memory.summary).tanh().unflatten(-1, (self.parts, self.layers, -1))
        return RecurrentState(tuple(part.transpose(0, 1).contiguous() for part in begin.unbind(dim=1)))

    def forward(
        self,
        x: Float[Tensor, "rows target d_model"],
        memory: RecurrentMemory,
        state: RecurrentState,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """Walk along the embedded target; `state` moves on in place, and weights are appended to `record`."""
        hidden, weights = self.walk(x, memory, state)
        if record is not None and weights is not None:
            record.append(weights[:, None])
        return hidden

    @abstractmethod
    def walk(self, x: Tensor, memory: RecurrentMemory, state: RecurrentState) -> tuple[Tensor, Tensor | None]:
        """See `forward`: its output, and the weights (rows, target, source), or None without attention."""

    def joined(
        self, states: Float[Tensor, "rows target d_model"], context: Float[Tensor, "rows target d_model"]
    ) -> Float[Tensor, "rows target d_model"]:
        """What the decoder knows of the target and of the source, in one vector per target token."""
        return self.combine(torch.cat([states, context], dim=-1)).tanh()


class FixedContextDecoder(RecurrentDecoder):
    """The source is one vector, the same at every step, however long the sentence (Cho et al. 2014, section 2.2)."""

    def __init__(self, cell: Cell, d_model: int, layers: int, *, dropout: float = 0.0):
        super().__init__(cell, d_model, layers, dropout=dropout)
        self.recurrence = Recurrence(cell, 2 * d_model, d_model, layers, dropout=dropout)

    def walk(self, x: Tensor, memory: RecurrentMemory, state: RecurrentState) -> tuple[Tensor, Tensor | None]:
        """See `RecurrentDecoder.walk`."""
        beam = x.shape[0] // memory.summary.shape[0]
        context = memory.summary.repeat_interleave(beam, dim=0)[:, None].expand_as(x)
        states, state.hidden = self.recurrence(torch.cat([x, context], dim=-1), state.hidden)
        return self.dropout(self.joined(states, context)), None


class AdditiveAttentionDecoder(RecurrentDecoder):
    """Looks at the source before each step: the last state is the query, what it finds enters the cell.

    Bahdanau et al. 2015, section 3.1. As each query is the result of the step before, steps cannot run side by side.
    The bottom layer attends; layers above it (Wu et al. 2016, section 3) only follow.
    """

    def __init__(self, cell: Cell, d_model: int, layers: int, *, dropout: float = 0.0):
        super().__init__(cell, d_model, layers, dropout=dropout)
        self.alignment = make_alignment("additive", d_model)
        self.bottom = Recurrence(cell, 2 * d_model, d_model)
        self.upper = Recurrence(cell, d_model, d_model, layers - 1, dropout=dropout) if layers > 1 else None

    def start(self, memory: RecurrentMemory) -> RecurrentState:
        """See `RecurrentDecoder.start`."""
        state = super().start(memory)
        state.key = self.alignment.project(memory.states)
        return state

    def walk(self, x: Tensor, memory: RecurrentMemory, state: RecurrentState) -> tuple[Tensor, Tensor | None]:
        """See `RecurrentDecoder.walk`."""
        assert state.key is not None
        hidden: Hidden = tuple(part[:1] for part in state.hidden)
        steps = []
        for step in x.split(1, dim=1):
            query = hidden[0].transpose(0, 1)
            context, weights = self.alignment(query, state.key, memory.states, memory.mask)
            output, hidden = self.bottom(torch.cat([step, context], dim=-1), hidden)
            steps.append((output, context, weights))
        states, contexts, all_weights = (torch.cat(parts, dim=1) for parts in zip(*steps, strict=True))
        if self.upper is not None:
            states, above = self.upper(self.dropout(states), tuple(part[1:].contiguous() for part in state.hidden))
            hidden = tuple(torch.cat(both) for both in zip(hidden, above, strict=True))
        state.hidden = hidden
        return self.dropout(self.joined(states, contexts)), all_weights


class MultiplicativeAttentionDecoder(RecurrentDecoder):
    """Looks at the source after each step: the new state is the query (Luong et al. 2015, section 3).

    The recurrence does not depend on what is found, so all target tokens of a training pair attend at once; with
    input feeding (section 3.3) it does, and they wait for each other as in additive attention.
    """

    def __init__(
        self,
        cell: Cell,
        d_model: int,
        layers: int,
        *,
        kind: AlignmentKind = "general",
        input_feeding: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(cell, d_model, layers, dropout=dropout)
        self.input_feeding = input_feeding
        self.alignment = make_alignment(kind, d_model)
        self.recurrence = Recurrence(cell, d_model * (2 if input_feeding else 1), d_model, layers, dropout=dropout)

    def start(self, memory: RecurrentMemory) -> RecurrentState:
        """See `RecurrentDecoder.start`."""
        state = super().start(memory)
        state.key = self.alignment.project(memory.states)
        if self.input_feeding:
            state.fed = torch.zeros_like(memory.states[:, :1])
        return state

    def walk(self, x: Tensor, memory: RecurrentMemory, state: RecurrentState) -> tuple[Tensor, Tensor | None]:
        """See `RecurrentDecoder.walk`."""
        chunks = x.split(1 if self.input_feeding else x.shape[1], dim=1)
        outputs, weights = zip(*(self._advance(chunk, memory, state) for chunk in chunks), strict=True)
        if len(chunks) == 1:  # as in every step of a search
            return outputs[0], weights[0]
        return torch.cat(outputs, dim=1), torch.cat(weights, dim=1)

    def _advance(
        self, x: Float[Tensor, "rows steps d_model"], memory: RecurrentMemory, state: RecurrentState
    ) -> tuple[Float[Tensor, "rows steps d_model"], Float[Tensor, "rows steps source"]]:
        assert state.key is not None
        if state.fed is not None:
            x = torch.cat([x, state.fed], dim=-1)
        states, state.hidden = self.recurrence(x, state.hidden)
        context, weights = self.alignment(states, state.key, memory.states, memory.mask)
        joined = self.joined(states, context)
        if state.fed is not None:
            state.fed = joined
        return self.dropout(joined), weights


def make_decoder(
    cell: Cell,
    attention: Literal["none"] | AlignmentKind,
    d_model: int,
    layers: int,
    *,
    dropout: float,
    input_feeding: bool = False,
) -> RecurrentDecoder:
    """The decoder that goes with a kind of attention."""
    if attention == "none":
        return FixedContextDecoder(cell, d_model, layers, dropout=dropout)
    if attention == "additive":
        return AdditiveAttentionDecoder(cell, d_model, layers, dropout=dropout)
    return MultiplicativeAttentionDecoder(
        cell, d_model, layers, kind=attention, input_feeding=input_feeding, dropout=dropout
    )
