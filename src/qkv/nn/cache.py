"""Keys and values that a decoder computes once and looks at in every later step of a search."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.nn.attention import KeyValue
from qkv.nn.masks import causal_mask
from qkv.nn.seq2seq import Cache

_ROOM = 16  # steps that the buffers have room for, at least


class Slots:
    """Where the target's keys lie, and which of them each beam may look at.

    All beams of a sentence share its slots, one for each token of each beam, and are queries to one set of keys. A key
    stays in the slot that it was written to. When beams move, only a table moves that says whose slots each of them
    descends from, and what attention adds to the scores hides the others.

    Attributes:
        sentences: how many there are; each has as many rows as it has beams.
        length: target tokens decoded so far, those of the step under way included.
        used: slots taken so far, likewise.
        bias: what attention adds to the scores in this step, (sentence or 1, 1, beam × new, slot); None if all is seen.
    """

    def __init__(self, sentences: int, dtype: torch.dtype, device: torch.device, *, causal: bool):
        self.sentences, self.length, self.used, self.new = sentences, 0, 0, 0
        self.bias: Tensor | None = None
        self._causal, self._dtype, self._device = causal, dtype, device
        # (sentence, beam, slot): 0 where the beam descends from the slot, else -inf; None while there is one beam.
        self._descent: Tensor | None = None
        self._own = torch.empty(0)  # (beam, beam): which of a step's slots each beam takes, one token each

    @property
    def positions(self) -> tuple[int, int]:
        """Of the step's tokens in their sequence: the first, and one beyond the last."""
        return self.length - self.new, self.length

    def take(self, beam: int, new: int) -> None:
        """Begin a step of so many new tokens in each of a sentence's beams."""
        earlier = self._descent
        if earlier is None and beam > 1:
            earlier = self._descends_from_all(beam)
        self.used, self.length, self.new = self.used + beam * new, self.length + new, new
        if earlier is None:
            sees_all = new == 1 or not self._causal
            self.bias = None if sees_all else self.as_bias(causal_mask(new, self.used, self._device))[None, None]
            return
        if len(self._own) != beam:
            self._own = self.as_bias(torch.eye(beam, dtype=torch.bool, device=self._device))
        own = self._own.repeat_interleave(new, dim=1) if new > 1 else self._own
        self._descent = torch.cat((earlier, own.expand(self.sentences, -1, -1)), dim=2)
        seen = self._descent
        if new > 1:
            seen = seen.repeat_interleave(new, dim=1)
            if self._causal:
                seen[:, :, -beam * new :] += self.as_bias(causal_mask(new, device=self._device)).repeat(beam, beam)
        self.bias = seen[:, None]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Cache.reorder`."""
        beam = len(rows) // self.sentences
        if self._descent is None:
            if beam == 1:
                return  # a sentence's only row can but continue itself
            self._descent = self._descends_from_all(1)
        self._descent = self._descent.flatten(0, 1)[rows].view(self.sentences, beam, -1)

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `Cache.keep`."""
        self.sentences = len(sentences)
        if self._descent is not None:
            self._descent = self._descent[sentences]

    def drop_dead(self) -> Int[Tensor, "sentence used"] | None:
        """Forget the slots that no beam descends from; those that stay, in their order, or None if all do."""
        if self._descent is None or self.used == 0:
            return None
        alive = (self._descent == 0.0).any(dim=1)
        # Sentences with fewer living slots than others keep some dead ones, which nobody sees.
        self.used = int(alive.sum(dim=1).max())
        living = alive.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, : self.used]
        living = living.sort(dim=1).values
        self._descent = self._descent.gather(2, living[:, None].expand(-1, self._descent.shape[1], -1))
        return living

    def of_ancestors(self, weights: Float[Tensor, "rows head new slot"]) -> Float[Tensor, "rows head new length"]:
        """Of weights over all slots, those over the slots that each row descends from."""
        if self._descent is None:
            return weights
        slots = (self._descent.flatten(0, 1) == 0.0).nonzero()[:, 1].view(len(weights), 1, 1, self.length)
        return weights.gather(3, slots.expand(-1, *weights.shape[1:3], -1))

    def as_bias(self, mask: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What a mask adds to the scores."""
        bias = torch.zeros(mask.shape, dtype=self._dtype, device=mask.device)
        return bias.masked_fill_(~mask, -torch.inf)

    def _descends_from_all(self, beam: int) -> Tensor:
        return torch.zeros(self.sentences, beam, self.used, dtype=self._dtype, device=self._device)


class LayerCache:
    """What one layer keeps: see `qkv.nn.attention.KeyValueCache`.

    Attributes:
        memory: keys and values of the source, which all beams of a sentence share.
    """

    def __init__(self, memory: KeyValue, slots: Slots):
        self.memory, self._slots = memory, slots
        self._stored = memory.key.new_empty(2, *memory.key.shape[:2], 0, memory.key.shape[3])  # keys, values

    @property
    def positions(self) -> tuple[int, int]:
        """See `Slots.positions`."""
        return self._slots.positions

    @property
    def room(self) -> int:
        """Slots that a sentence's buffers have, used or not."""
        return self._stored.shape[3]

    def extend(self, new: KeyValue) -> KeyValue:
        """Write the step's keys and values into its slots; all slots so far, and what is added to the scores."""
        used, count = self._slots.used, new.key.shape[2]
        stored = self._stored.narrow(3, 0, used)
        key, value = stored.select(0, 0), stored.select(0, 1)
        key.narrow(2, used - count, count).copy_(new.key)
        value.narrow(2, used - count, count).copy_(new.value)
        return KeyValue(key, value, self._slots.bias)

    def keep(self, sentences: Int[Tensor, " kept"], bias: Tensor | None) -> None:
        """See `Cache.keep`."""
        self.memory = KeyValue(self.memory.key[sentences], self.memory.value[sentences], bias)
        self._stored = self._stored[:, sentences]

    def make_room(self, living: Tensor | None, used: int, room: int) -> None:
        """Copy the slots that are used, all or the living ones, to where there is room for more."""
        before = self._stored
        if living is not None:
            before = before.gather(
                3, living[None, :, None, :, None].expand(2, -1, before.shape[2], -1, before.shape[4])
            )
        self._stored = before.new_empty(*before.shape[:3], used + room, before.shape[4])
        self._stored[:, :, :, :used] = before[:, :, :, :used]


class TransformerCache(Cache):
    """Per layer, the target's own keys and values, and those of the memory.

    Args:
        memory: each layer's keys and values of the source.
        memory_mask: True = a real source token; None when no row is padded.
        causal: whether a new token sees no later one that is decoded in the same step.
    """

    def __init__(
        self, memory: list[KeyValue], memory_mask: Bool[Tensor, "batch source"] | None, *, causal: bool = True
    ):
        key = memory[0].key
        self._slots = Slots(len(key), key.dtype, key.device, causal=causal)
        self._memory_bias = None if memory_mask is None else self._slots.as_bias(memory_mask)[:, None, None]
        self.layers = [LayerCache(KeyValue(each.key, each.value, self._memory_bias), self._slots) for each in memory]

    @property
    def length(self) -> int:
        """See `Cache.length`."""
        return self._slots.length

    @property
    def room(self) -> int:
        """See `LayerCache.room`."""
        return self.layers[0].room

    def begin(self, x: Float[Tensor, "rows new d_model"]) -> Float[Tensor, "sentence positions d_model"]:
        """Begin a step: a slot for every new token, and all beams of a sentence in one row, as queries to its keys."""
        slots, (rows, new, _) = self._slots, x.shape
        beam = rows // slots.sentences
        if slots.used + beam * new > self.room:
            # Copied anyway, so what is dead is left behind.
            living = slots.drop_dead()
            for layer in self.layers:
                layer.make_room(living, slots.used, max(slots.used // 2, _ROOM * beam * new))
        slots.take(beam, new)
        return x.reshape(slots.sentences, beam * new, -1)

    def by_row(
        self, weights: Float[Tensor, "sentence head positions slot"], *, of_target: bool
    ) -> Float[Tensor, "rows head new key"]:
        """A step's weights as an uncached pass would record them: each row's own, and over its own past alone."""
        weights = weights.unflatten(2, (-1, self._slots.new)).transpose(1, 2).flatten(0, 1)
        return self._slots.of_ancestors(weights) if of_target else weights

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Cache.reorder`. Keys and values stay where they are."""
        self._slots.reorder(rows)

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `Cache.keep`."""
        self._slots.keep(sentences)
        if self._memory_bias is not None:
            self._memory_bias = self._memory_bias[sentences]
        for layer in self.layers:
            layer.keep(sentences, self._memory_bias)
