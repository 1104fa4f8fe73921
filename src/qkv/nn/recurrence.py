"""RNN, GRU and LSTM behind one face: torch's kernels, with padding left out and the state always a tuple."""

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Cell = Literal["rnn", "gru", "lstm"]

Hidden = tuple[Float[Tensor, "layer rows d_state"], ...]
"""What a recurrence remembers: (hidden state,), or (hidden state, cell state) of an LSTM."""

_KERNELS: dict[Cell, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def state_parts(cell: Cell) -> int:
    """Number of tensors in a cell's state."""
    return 2 if cell == "lstm" else 1


class Recurrence(nn.Module):
    """Layers of recurrent cells: each state is made of the one before it and of the input, so time is serial.

    rnn is Elman's network (1990) with tanh; lstm is Hochreiter & Schmidhuber 1997, whose forget gate begins open
    (Jozefowicz et al. 2015, section 3); gru is Cho et al. 2014, section 2.3.

    Args:
        cell: rnn, gru or lstm.
        d_input: width of the input.
        d_state: width of the state, of each direction.
        layers: how many are stacked.
        dropout: between the layers.
        bidirectional: whether a second recurrence reads from the end; their outputs are joined.
    """

    def __init__(
        self,
        cell: Cell,
        d_input: int,
        d_state: int,
        layers: int = 1,
        *,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        super().__init__()
        self.d_state, self.parts = d_state, state_parts(cell)
        self.kernel = _KERNELS[cell](
            d_input,
            d_state,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=bidirectional,
        )
        if cell == "lstm":
            self._open_forget_gates()

    def forward(
        self,
        x: Float[Tensor, "rows length d_input"],
        hidden: Hidden | None = None,
        mask: Bool[Tensor, "rows length"] | None = None,
    ) -> tuple[Float[Tensor, "rows length d_output"], Hidden]:
        """Walk along `x`.

        Args:
            x: the input.
            hidden: the state to begin with; zeros by default.
            mask: True = a real token, right-padded; without it no row is padded.

        Returns:
            The top layer's state at every position (zero on padding), and all layers' states after the last real one.
        """
        # Half precision is for CUDA: elsewhere not every machine has LSTM kernels for it.
        with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and x.is_cuda):
            if not x.is_cuda:
                x = x.to(next(self.kernel.parameters()).dtype)
                hidden = None if hidden is None else tuple(part.to(x.dtype) for part in hidden)
            return self._walk(x, hidden, mask)

    def _walk(self, x: Tensor, hidden: Hidden | None, mask: Tensor | None) -> tuple[Tensor, Hidden]:
        begin = hidden[0] if hidden is not None and self.parts == 1 else hidden
        if mask is None:
            outputs, end = self.kernel(x, begin)
        else:
            packed = pack_padded_sequence(x, mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
            packed, end = self.kernel(packed, begin)
            outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        return outputs, cast(Hidden, end if self.parts == 2 else (end,))

    def _open_forget_gates(self) -> None:
        with torch.no_grad():
            for name, bias in self.kernel.named_parameters():
                if name.startswith("bias_ih"):
                    bias[self.d_state : 2 * self.d_state] = 1.0  # gates come as input, forget, cell, output
                elif name.startswith("bias_hh"):
                    bias[self.d_state : 2 * self.d_state] = 0.0
