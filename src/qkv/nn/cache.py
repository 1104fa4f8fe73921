"""Keys and values that a decoder computes once and attends to at every later step."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.nn.attention import attention
from qkv.nn.masks import causal_mask
from qkv.nn.seq2seq import State

KeyValue = tuple[Float[Tensor, "batch head length d_head"], Float[Tensor, "batch head length d_head"]]

_ROOM = 16  # target positions that a buffer has room for, at least


class TransformerState(State):
    """Per layer, the target's own keys and values, and those of the memory, which all beams share.

    A key stays in the slot that it was written to. When beams move, only a table moves that says whose slots each of
    them descends from, and attention hides the others: all beams of a sentence are queries to one set of keys. Slots
    that no beam descends from any more are dropped whenever the buffers are full and have to be copied anyway.

    Args:
        memory: each layer's keys and values of the source.
        memory_mask: True = a real source token; None when no row is padded.
        causal: whether a new token sees no later one that is decoded in the same step.
    """

    def __init__(
        self, memory: list[KeyValue], memory_mask: Bool[Tensor, "batch source"] | None, *, causal: bool = True
    ):
        self.memory = memory
        self._memory_mask = None if memory_mask is None else memory_mask[:, None, None]
        self._memory_bias = _as_bias(self._memory_mask, memory[0][0].dtype)
        self._causal = causal
        self._length = self._used = 0
        self._target: list[KeyValue] = [(key[:, :, :0], value[:, :, :0]) for key, value in memory]
        # (sentence, beam, slot): does the beam descend from it? None as long as each sentence has one beam.
        self._descent: Tensor | None = None
        self._mask: Tensor | None = None  # of the step: (sentence, 1, beam × new, slot), None if all is seen
        self._bias: Tensor | None = None  # what it adds to the scores

    @property
    def length(self) -> int:
        """See `State.length`."""
        return self._length

    @property
    def sentences(self) -> int:
        """Number of sentences, each with as many rows as it has beams."""
        return self.memory[0][0].shape[0]

    @property
    def room(self) -> int:
        """Slots that a sentence's buffers have, used or not."""
        return self._target[0][0].shape[2]

    def extend(self, rows: int, new: int) -> None:
        """Begin a step, in which every layer `append`s so many new tokens to each row."""
        beam = rows // self.sentences
        if beam > 1 and self._descent is None:
            self._descent = self._new_descent(beam)
        self._make_room(beam * new)
        self._used += beam * new
        self._length += new
        device = self.memory[0][0].device
        if self._descent is None:
            self._mask = causal_mask(new, self._used, device=device)[None, None] if self._causal and new > 1 else None
        else:
            own = torch.eye(beam, dtype=torch.bool, device=device)
            seen = causal_mask(new, device=device) if self._causal else own.new_ones(new, new)
            among_new = (own[:, None, :, None] & seen[None, :, None]).reshape(1, beam * new, beam * new)
            earlier = self._descent.repeat_interleave(new, dim=1)
            self._mask = torch.cat((earlier, among_new.expand(self.sentences, -1, -1)), dim=2)[:, None]
            added = own.repeat_interleave(new, dim=1).expand(self.sentences, -1, -1)
            self._descent = torch.cat((self._descent, added), dim=2)
        self._bias = _as_bias(self._mask, self.memory[0][0].dtype)

    def attend_to_target(
        self,
        layer: int,
        query: Float[Tensor, "rows head new d_head"],
        key: Float[Tensor, "rows head new d_head"],
        value: Float[Tensor, "rows head new d_head"],
        *,
        scale: float | None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "rows head new d_head"]:
        """Add the step's keys and values to those of a layer, and look from each row at all it descends from.

        The weights are appended to `record` if given, as (row, head, new, length).
        """
        query, key, value = (self._by_sentence(heads) for heads in (query, key, value))
        keys, values = self._target[layer]
        first = self._used - key.shape[2]
        keys[:, :, first : self._used] = key
        values[:, :, first : self._used] = value
        keys, values = keys[:, :, : self._used], values[:, :, : self._used]
        if record is None:
            found = F.scaled_dot_product_attention(query, keys, values, attn_mask=self._bias, scale=scale)
        else:
            found, weights = attention(query, keys, values, self._mask, scale=scale, return_weights=True)
            weights = self._by_row(weights)
            if self._descent is not None:
                slots = self._descent.flatten(0, 1).nonzero()[:, 1].view(len(weights), 1, 1, self._length)
                weights = weights.gather(3, slots.expand(-1, *weights.shape[1:3], -1))
            record.append(weights)
        return self._by_row(found)

    def attend_to_memory(
        self,
        layer: int,
        query: Float[Tensor, "sentence head queries d_head"],
        *,
        scale: float | None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "sentence head queries d_head"]:
        """Look at the source; a sentence's beams are more queries to the same memory, which is not copied.

        The weights are appended to `record` if given, as (row, head, new, source).
        """
        key, value = self.memory[layer]
        if record is None:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=self._memory_bias, scale=scale)
        found, weights = attention(query, key, value, self._memory_mask, scale=scale, return_weights=True)
        record.append(self._by_row(weights))
        return found

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `State.reorder`. Keys and values stay where they are."""
        beam = len(rows) // self.sentences
        if self._descent is None:
            if beam == 1:
                return  # a sentence's only row can but continue itself
            self._descent = self._new_descent(1)
        self._descent = self._descent.flatten(0, 1)[rows].unflatten(0, (-1, beam))

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `State.keep`."""
        self.memory = [(key[sentences], value[sentences]) for key, value in self.memory]
        self._target = [(key[sentences], value[sentences]) for key, value in self._target]
        if self._memory_mask is not None and self._memory_bias is not None:
            self._memory_mask, self._memory_bias = self._memory_mask[sentences], self._memory_bias[sentences]
        if self._descent is not None:
            self._descent = self._descent[sentences]

    def _new_descent(self, beam: int) -> Tensor:
        """Every beam descends from all slots so far."""
        return torch.ones(self.sentences, beam, self._used, dtype=torch.bool, device=self.memory[0][0].device)

    def _make_room(self, slots: int) -> None:
        """Let the buffers have so many free slots."""
        if self._used + slots <= self.room:
            return
        living = None
        if self._descent is not None and self._used > 0:
            alive = self._descent.any(dim=1)
            # Sentences with fewer living slots than others keep some dead ones, which nobody sees.
            self._used = int(alive.sum(dim=1).max())
            living = alive.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, : self._used]
            living = living.sort(dim=1).values
            self._descent = self._descent.gather(2, living[:, None].expand(-1, self._descent.shape[1], -1))
        room = max(self._used // 2, _ROOM * slots)
        self._target = [
            (_with_room(key, living, self._used, room), _with_room(value, living, self._used, room))
            for key, value in self._target
        ]

    def _by_sentence(self, heads: Tensor) -> Tensor:
        """(rows, head, new, d_head) → (sentence, head, beam × new, d_head)"""
        if len(heads) == self.sentences:
            return heads
        return heads.unflatten(0, (self.sentences, -1)).transpose(1, 2).flatten(2, 3)

    def _by_row(self, heads: Tensor) -> Tensor:
        """(sentence, head, beam × new, …) → (rows, head, new, …)"""
        if self._descent is None:
            return heads
        beam = self._descent.shape[1]
        return heads.unflatten(2, (beam, -1)).transpose(1, 2).flatten(0, 1)


def _with_room(buffer: Tensor, living: Tensor | None, used: int, room: int) -> Tensor:
    """A copy of the slots that are used, all or the living ones, with room for more."""
    sentences, heads, _, d_head = buffer.shape
    grown = buffer.new_empty(sentences, heads, used + room, d_head)
    if living is None:
        grown[:, :, :used] = buffer[:, :, :used]
    else:
        grown[:, :, :used] = buffer.gather(2, living[:, None, :, None].expand(-1, heads, -1, d_head))
    return grown


def _as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What a mask adds to the scores, which kernels want: made once a step, not once a layer."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
