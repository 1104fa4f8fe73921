"""What searches and scores: the one door between tokens in and tokens out, and the contract of an engine behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.shortlist import Shortlist
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.tokenizer import Tokenizers


@dataclass(frozen=True)
class Request:
    """What is to be searched for.

    Attributes:
        sources: ids of each source, with eos.
        options: how to search.
        prefixes: for each source the target ids that its outputs begin with; none by default.
    """

    sources: Sequence[Sequence[int]]
    options: SearchOptions = SearchOptions()
    prefixes: Sequence[Sequence[int]] | None = None


@runtime_checkable
class Engine(Protocol):
    """A model made ready for decoding.

    Attributes:
        name: as in `ENGINES`.
        precision: what it computes in.
        shortlist: limits the target tokens that a search looks at; None if it looks at all.
        exact: whether it searches with the model itself, in float32, so that a pass of the model finds what it finds.
        lacks: what it cannot do: `prefix`.
        note: why it was chosen, in one line; empty where nobody chose.
    """

    name: str
    precision: str
    shortlist: Shortlist | None
    exact: bool
    lacks: frozenset[str]
    note: str

    @property
    def longest(self) -> int | None:
        """The most tokens that a source or target may have; None if there is no limit."""

    def search(
        self, request: Request, *, batch_tokens: int = 8192, on_progress: Callable[[int], object] | None = None
    ) -> list[list[Hypothesis]]:
        """Search for the best outputs of each source.

        Args:
            request: what for.
            batch_tokens: source tokens × beam in a batch, at most (a longer source is a batch of its own).
            on_progress: called with the number of sources done since the last call.

        Returns:
            For each source, in order, its `options.n_best` hypotheses, best first. With a shortlist, probabilities are
            those among its tokens.

        Raises:
            UserError: if the engine lacks what is asked for, or a source is too long or a prefix impossible.
        """

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log-probability of each token of each target, among all tokens; sources and targets end with eos."""


@dataclass(frozen=True)
class Opening:
    """What an engine is opened with.

    Attributes:
        model: in evaluation mode, in float32, where it is to compute.
        tokenizers: of both sides.
        precision: what to compute in.
        shortlist: limits the target tokens that a search looks at, if given.
        directory: where the engine may keep what it makes of the model.
        checkpoint: the name of what the model is from.
        checkpoints: names of all there are: what is kept of others may go.
    """

    model: Seq2Seq
    tokenizers: Tokenizers
    precision: str = "float32"
    shortlist: Shortlist | None = None
    directory: Path | None = None
    checkpoint: str = "model"
    checkpoints: frozenset[str] = frozenset()


@dataclass(frozen=True)
class EngineKind:
    """An entry of `ENGINES`.

    Attributes:
        precisions: that it can compute in, on one device or another.
        open: makes the engine; `UserError` if it cannot express the model, or not so.
    """

    precisions: tuple[str, ...]
    open: Callable[[Opening], Engine]


def title(engine: Engine) -> str:
    """What to call an engine where two are told apart: `ctranslate2 int8, with a shortlist`."""
    return f"{engine.name} {engine.precision}" + (", with a shortlist" if engine.shortlist is not None else "")
