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
        self.sentences, heads, _, d_head = memory[0][0].shape  # each sentence has as many rows as it has beams
        self._memory_mask = None if memory_mask is None else memory_mask[:, None, None]
        self._memory_bias = None if self._memory_mask is None else self._as_bias(self._memory_mask)
        self._causal = causal
        self._length = self._used = self._first_new = 0
        # (sentence, slot, key or value, head, d_head) for each layer: a token's are written in one piece.
        self._target = [memory[0][0].new_empty(self.sentences, 0, 2, heads, d_head) for _ in memory]
        # What attention adds to the scores (sentence, beam, slot): nothing where the beam descends from the slot, else
        # -inf. None as long as each sentence has one beam.
        self._descent: Tensor | None = None
        self._own: Tensor | None = None  # the same for the slots of a step of one token: (beam, slot)
        self._bias: Tensor | None = None  # of the step: (sentence or 1, 1, beam × new, slot), None if all is seen

    @property
    def length(self) -> int:
        """See `State.length`."""
        return self._length

    @property
    def room(self) -> int:
        """Slots that a sentence's buffers have, used or not."""
        return self._target[0].shape[1]

    def extend(self, rows: int, new: int) -> None:
        """Begin a step, in which every layer adds so many new tokens to each row."""
        beam = rows // self.sentences
        if beam > 1 and self._descent is None:
            self._descent = self._new_descent(beam)
        self._make_room(beam * new)
        self._first_new = self._used
        self._used += beam * new
        self._length += new
        if self._descent is None:
            sees_all = not self._causal or new == 1
            self._bias = None if sees_all else self._as_bias(causal_mask(new, self._used, self._device))[None, None]
            return
        if self._own is None or len(self._own) != beam:
            self._own = self._as_bias(torch.eye(beam, dtype=torch.bool, device=self._device))
        earlier, own = self._descent, self._own.expand(self.sentences, -1, -1)
        if new == 1:
            self._descent = torch.cat((earlier, own), dim=2)
            self._bias = self._descent[:, None]
        else:
            others = self._own.repeat_interleave(new, dim=0).repeat_interleave(new, dim=1)
            later = self._as_bias(causal_mask(new, device=self._device)) if self._causal else others.new_zeros(new, new)
            among_new = (others + later.repeat(beam, beam)).expand(self.sentences, -1, -1)
            self._bias = torch.cat((earlier.repeat_interleave(new, dim=1), among_new), dim=2)[:, None]
            self._descent = torch.cat((earlier, own.repeat_interleave(new, dim=2)), dim=2)

    def attend_to_target(
        self,
        layer: int,
        query: Float[Tensor, "rows new head d_head"],
        key_value: Float[Tensor, "rows new 2 head d_head"],
        *,
        scale: float | None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "rows new d_model"]:
        """Add the step's keys and values to those of a layer, and look from each row at all it descends from.

        The weights are appended to `record` if given, as (row, head, new, length).
        """
        rows, new, heads, d_head = query.shape
        stored = self._target[layer]
        newest = stored.narrow(1, self._first_new, self._used - self._first_new)
        newest.copy_(key_value.reshape(newest.shape))
        key, value = stored.narrow(1, 0, self._used).permute(2, 0, 3, 1, 4).unbind()
        # A sentence's beams are more queries to the same keys.
        query = query.reshape(self.sentences, -1, heads, d_head).transpose(1, 2)
        if record is None:
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=self._bias, scale=scale)
        else:
            mask = None if self._bias is None else self._bias == 0.0
            found, weights = attention(query, key, value, mask, scale=scale, return_weights=True)
            record.append(self._of_ancestors(self._by_row(weights, rows)))
        return found.transpose(1, 2).reshape(rows, new, heads * d_head)

    def attend_to_memory(
        self,
        layer: int,
        query: Float[Tensor, "rows new head d_head"],
        *,
        scale: float | None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "rows new d_model"]:
        """Look at the source; a sentence's beams are more queries to the same memory, which is not copied.

        The weights are appended to `record` if given, as (row, head, new, source).
        """
        rows, new, heads, d_head = query.shape
        key, value = self.memory[layer]
        query = query.reshape(self.sentences, -1, heads, d_head).transpose(1, 2)
        if record is None:
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=self._memory_bias, scale=scale)
        else:
            found, weights = attention(query, key, value, self._memory_mask, scale=scale, return_weights=True)
            record.append(self._by_row(weights, rows))
        return found.transpose(1, 2).reshape(rows, new, heads * d_head)

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `State.reorder`. Keys and values stay where they are."""
        beam = len(rows) // self.sentences
        if self._descent is None:
            if beam == 1:
                return  # a sentence's only row can but continue itself
            self._descent = self._new_descent(1)
        self._descent = self._descent.flatten(0, 1)[rows].view(self.sentences, beam, -1)

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `State.keep`."""
        self.sentences = len(sentences)
        self.memory = [(key[sentences], value[sentences]) for key, value in self.memory]
        self._target = [stored[sentences] for stored in self._target]
        if self._memory_mask is not None and self._memory_bias is not None:
            self._memory_mask, self._memory_bias = self._memory_mask[sentences], self._memory_bias[sentences]
        if self._descent is not None:
            self._descent = self._descent[sentences]

    @property
    def _device(self) -> torch.device:
        return self._target[0].device

    def _new_descent(self, beam: int) -> Tensor:
        """Every beam descends from all slots so far."""
        return self._target[0].new_zeros(self.sentences, beam, self._used)

    def _make_room(self, slots: int) -> None:
        """Let the buffers have so many free slots."""
        if self._used + slots <= self.room:
            return
        living = None
        if self._descent is not None and self._used > 0:
            alive = (self._descent == 0.0).any(dim=1)
            # Sentences with fewer living slots than others keep some dead ones, which nobody sees.
            self._used = int(alive.sum(dim=1).max())
            living = alive.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, : self._used]
            living = living.sort(dim=1).values
            self._descent = self._descent.gather(2, living[:, None].expand(-1, self._descent.shape[1], -1))
        room = max(self._used // 2, _ROOM * slots)
        self._target = [_with_room(stored, living, self._used, room) for stored in self._target]

    def _by_row(self, weights: Tensor, rows: int) -> Tensor:
        """(sentence, head, beam × new, key) → (rows, head, new, key)"""
        beam = rows // self.sentences
        return weights.unflatten(2, (beam, -1)).transpose(1, 2).flatten(0, 1)

    def _of_ancestors(self, weights: Tensor) -> Tensor:
        """(rows, head, new, slot) → (rows, head, new, length): the slots that each row descends from."""
        if self._descent is None:
            return weights
        slots = (self._descent.flatten(0, 1) == 0.0).nonzero()[:, 1].view(len(weights), 1, 1, self._length)
        return weights.gather(3, slots.expand(-1, *weights.shape[1:3], -1))

    def _as_bias(self, mask: Tensor) -> Tensor:
        """What a mask adds to the scores, which kernels want: made once a step, not once a layer."""
        bias = torch.zeros(mask.shape, dtype=self.memory[0][0].dtype, device=mask.device)
        return bias.masked_fill_(~mask, -torch.inf)


def _with_room(stored: Tensor, living: Tensor | None, used: int, room: int) -> Tensor:
    """A copy of the slots that are used, all or the living ones, with room for more."""
    sentences, _, *per_slot = stored.shape
    grown = stored.new_empty(sentences, used + room, *per_slot)
    if living is None:
        grown[:, :used] = stored[:, :used]
    else:
        grown[:, :used] = stored.gather(1, living[:, :, None, None, None].expand(-1, -1, *per_slot))
    return grown
