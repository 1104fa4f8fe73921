"""Keys and values that a decoder computes once and attends to at every later step."""

from jaxtyping import Float, Int
from torch import Tensor

from qkv.nn.seq2seq import State, beam_rows

KeyValue = tuple[Float[Tensor, "batch head length d_head"], Float[Tensor, "batch head length d_head"]]


class GrowingKeyValue:
    """Keys and values of the target so far, in a buffer that is written in place and doubled when full."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(
        self, key: Float[Tensor, "rows head new d_head"], value: Float[Tensor, "rows head new d_head"]
    ) -> KeyValue:
        """Add the new positions and return all positions so far."""
        first, last = self.length, self.length + key.shape[2]
        self._keys = self._with_room(self._keys, key, last)
        self._values = self._with_room(self._values, value, last)
        self._keys[:, :, first:last] = key
        self._values[:, :, first:last] = value
        self.length = last
        return self._keys[:, :, :last], self._values[:, :, :last]

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Continue with the given rows."""
        if self._keys is not None and self._values is not None:
            self._keys = self._keys.index_select(0, rows)
            self._values = self._values.index_select(0, rows)

    def _with_room(self, buffer: Tensor | None, new: Tensor, needed: int) -> Tensor:
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        rows, heads, _, d_head = new.shape
        capacity = max(16, needed if buffer is None else 2 * needed)
        grown = new.new_empty(rows, heads, capacity, d_head)
        if buffer is not None:
            grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown


class TransformerState(State):
    """Per layer, the target's own keys and values, and those of the memory, which all beams share."""

    def __init__(self, memory_key_values: list[KeyValue]):
        self.memory = memory_key_values
        self.target = [GrowingKeyValue() for _ in memory_key_values]

    @property
    def length(self) -> int:
        """See `State.length`."""
        return self.target[0].length

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `State.reorder`. The memory's keys and values stay, as all beams of a sentence share them."""
        for cache in self.target:
            cache.select(rows)

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `State.keep`."""
        rows = self._rows_of(sentences)
        self.memory = [(key[sentences], value[sentences]) for key, value in self.memory]
        for cache in self.target:
            cache.select(rows)

    def _rows_of(self, sentences: Tensor) -> Tensor:
        keys = self.target[0]._keys
        if keys is None:
            return sentences
        return beam_rows(sentences, beam=keys.shape[0] // self.memory[0][0].shape[0])
