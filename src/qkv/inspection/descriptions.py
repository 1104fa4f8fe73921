"""An operation in words and as a formula, from what it did: its name, its module and the axes that it changed."""

from collections.abc import Callable
from dataclasses import dataclass

from qkv.inspection.trace import Operation

Words = tuple[str, str]
"""What happens, and the formula."""


@dataclass(frozen=True)
class Named:
    """An operation with the names of its axes.

    Attributes:
        operation: what ran.
        before: axes of its first tensor.
        axes: axes of its result.
        inner: the axis summed over by a product of two activations, or None.
        factor: what it multiplies by, as text.
    """

    operation: Operation
    before: tuple[str, ...]
    axes: tuple[str, ...]
    inner: str | None
    factor: str

    @property
    def out(self) -> str:
        """The last axis of the result."""
        return self.axes[-1] if self.axes else "1"


def describe(named: Named) -> Words | None:
    """None for what only prepares another operation: a copy, a guard, a view."""
    describer = _DESCRIBERS.get(named.operation.name)
    return None if describer is None else describer(named)


def _linear(named: Named) -> Words:
    what, formula = _product(named.operation.path, named)
    return what, f"{formula} + b" if named.operation.bias else formula


def _product(path: str, named: Named) -> Words:
    last = path.rpartition(".")[2]
    known = {
        "wide": ("widen", "h = x·W₁ᵀ"),
        "narrow": ("narrow", "h·W₂ᵀ"),
        "bridge": ("make the decoder's first state of the summary", "summary·Wᵀ"),
        "combine": ("combine state and context", "[state; context]·Wᵀ"),
        "energy": ("score each pair of query and key", "vᵀ·tanh(…)"),
        "query": ("project the queries", "query·W_Qᵀ"),
        "key": ("project the source to keys, once", "states·W_Kᵀ"),
        "found": ("project what was found", "found·Wᵀ"),
    }
    if path == "output":
        return "project to a logit per token of the vocabulary", "x·Wᵀ"
    if last == "projection":  # by rows of the stacked matrices
        return {
            "d_model": ("project to queries", "Q = x·W_Qᵀ"),
            "2·d_model": ("project the memory to keys and values", "[K; V] = memory·[W_K; W_V]ᵀ"),
        }.get(named.out, ("project to queries, keys and values at once", "[Q; K; V] = x·[W_Q; W_K; W_V]ᵀ"))
    if last == "output":
        return "mix what the heads found", "heads·W_Oᵀ"
    if last == "linear" and named.before[-1] != named.out:
        return "convolve: one product over each window", "window·Wᵀ"
    return known.get(last, (f"linear map to {named.out}", "x·Wᵀ"))


def _matmul(named: Named) -> Words:
    if named.inner in ("source", "target"):
        return "gather values by their weights", "weights·V"
    return "score every query against every key", "Q·Kᵀ"


def _mul(named: Named) -> Words | None:
    if named.operation.factor is not None:
        return f"scale by {named.factor}", f"x × {named.factor}"
    if named.operation.function == "attention_weights":  # only queries that may attend to nothing need it
        return None
    if named.operation.owner == "RotaryPosition":
        return "rotate by position", "x·e^(i·position·frequency)"
    return "gate: multiply elementwise", "g ⊙ x"


def _add(named: Named) -> Words:
    owner = named.operation.owner
    if owner in ("SinusoidalPosition", "LearnedPosition"):
        return "add the position", "x + P[position]"
    if owner == "AdditiveAttention":
        return "add every query to every key", "W·query + U·key"
    if owner == "Residual":
        return "add the sublayer's input", "x + sublayer(x)"
    return "add", "x + y"


def _softmax(named: Named) -> Words:
    return f"turn scores into weights that sum to one over {named.out}", "softmax(scores)"


def _recurrence(named: Named) -> Words:
    cell = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN"}[named.operation.name]
    return f"walk along with {cell} cells", "hₜ = " + f"{cell}(xₜ, hₜ₋₁)"


def _cat(named: Named) -> Words | None:
    if named.operation.dimension != -1:
        return None
    if named.operation.owner == "GatedConvolution":
        return "lay each window's positions side by side", "[xₜ; xₜ₊₁; …]"
    return "join side by side", "[x; y]"


def _rearrangement(named: Named) -> Words | None:
    was, now = "head" in named.before, "head" in named.axes
    if now and not was:
        return "split into heads", "d_model → head × d_head"
    if was and not now:
        return "join the heads", "head × d_head → d_model"
    return None


def _always(what: str, formula: str) -> Callable[[Named], Words]:
    return lambda named: (what, formula)


_DESCRIBERS: dict[str, Callable[[Named], Words | None]] = {
    "linear": _linear,
    "matmul": _matmul,
    "bmm": _matmul,
    "mm": _matmul,
    "scaled_dot_product_attention": _always("attend", "softmax(Q·Kᵀ/√d)·V"),
    "mul": _mul,
    "add": _add,
    "softmax": _softmax,
    "cat": _cat,
    "embedding": _always("look up a vector per token", "E[token]"),
    "layer_norm": _always("normalise each token", "γ·(x − mean)/√(variance + ε) + β"),
    "batch_norm": _always("normalise each feature by its running averages", "γ·(x − mean)/√(variance + ε) + β"),
    "masked_fill": _always("hide what may not be seen", "scores = −∞ where masked"),
    "tanh": _always("bend", "tanh(x)"),
    "relu": _always("bend", "max(0, x)"),
    "gelu": _always("bend", "x·Φ(x)"),
    "silu": _always("bend", "x·σ(x)"),
    "sigmoid": _always("bend", "σ(x)"),
    "glu": _always("gate one half by the other", "a ⊙ σ(b)"),
    "pad": _always("put zeros beyond both ends", "[0; x; 0]"),
} | dict.fromkeys(("lstm", "gru", "rnn_tanh"), _recurrence)
_DESCRIBERS |= dict.fromkeys(("unflatten", "flatten", "transpose", "reshape"), _rearrangement)
