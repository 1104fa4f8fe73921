"""From text to text: a trained model, its tokenizers and a search."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Literal, get_args, overload

import torch

from qkv.decoding.beam_tree import BeamTree
from qkv.decoding.copying import attends, copied_symbols
from qkv.decoding.engines.contract import Engine, Request
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.hypothesis import Hypothesis, distinct
from qkv.decoding.options import SearchOptions
from qkv.decoding.reading import Reading
from qkv.decoding.scoring import TargetScore
from qkv.decoding.sentences import in_order, length_sorted_batches
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq
from qkv.progress import bar
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import UNAMBIGUOUS


@dataclass(frozen=True)
class Translation:
    """One output.

    Attributes:
        text: the output.
        score: what outputs of one source are ranked by; see `SearchOptions.length_penalty`.
        log_probability: natural log-probability of the output given the source.
        tokens: the pieces that the text is made of.
        finished: whether it ended by itself; False if the length limit cut it off, so that its score and
            log-probability are those of a beginning.
    """

    text: str
    score: float
    log_probability: float
    tokens: list[str]
    finished: bool = True


Unknown = Literal["mark", "copy", "drop"]
"""What becomes of an output's unknown symbols; see `Translator.translate`."""
Side = Literal["source", "target"]

_NOTHING = Hypothesis([], 0.0, 0.0, finished=True)
"""What a blank source becomes."""


class Translator:
    """Translates with a model: sorts by length, batches, searches, and answers in the order of the input.

    >>> translator = qkv.load("runs/en-de")
    >>> translator.translate("a man rides a bicycle")

    Args:
        model: is set to evaluation mode.
        tokenizers: of both sides.
        options: how to search, unless a call says otherwise.
        batch_tokens: source tokens × beam decoded together, at most.
        device: where to compute; by default where the model is.
        engine: searches and scores; by default the model itself does, by torch.
    """

    def __init__(
        self,
        model: Seq2Seq,
        tokenizers: Tokenizers,
        *,
        options: SearchOptions = SearchOptions(),
        batch_tokens: int = 8192,
        device: torch.device | str | None = None,
        engine: Engine | None = None,
    ):
        self.device = next(model.parameters()).device if device is None else torch.device(device)
        self.model = model.to(self.device).eval()
        self.tokenizers, self.options, self.batch_tokens = tokenizers, options, batch_tokens
        self._engine = TorchEngine(self.model, tokenizers) if engine is None else engine

    @property
    def engine(self) -> Engine:
        """What searches and scores."""
        return self._engine

    @cached_property
    def reference(self) -> TorchEngine:
        """The model itself as an engine, in float32 by torch: `engine`, if that is such a one.

        What it finds is what a pass of `model` sees, as when attention weights are recorded.
        """
        if isinstance(self._engine, TorchEngine) and self._engine.exact:
            return self._engine
        return TorchEngine(self.model, self.tokenizers)

    @overload
    def translate(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
        self,
        sources: str,
        *,
        beam: int | None = ...,
        length_penalty: float | None = ...,
        unknown: Unknown = ...,
        progress: bool = ...,
    ) -> str: ...

    @overload
    def translate(
        self,
        sources: Sequence[str] | Reading,
        *,
        beam: int | None = ...,
        length_penalty: float | None = ...,
        unknown: Unknown = ...,
        progress: bool = ...,
    ) -> list[str]: ...

    def translate(
        self,
        sources: str | Sequence[str] | Reading,
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        unknown: Unknown = "mark",
        progress: bool = False,
    ) -> str | list[str]:
        """The best output for one source, or for each of several. A blank source gives an empty output.

        Args:
            sources: one text or several, or what `read` makes of these.
            beam: in place of `options.beam`; 1 is greedy search.
            length_penalty: in place of `options.length_penalty`.
            unknown: where an output has a symbol that is not in the vocabulary, `mark` shows it as ⁇, `drop` leaves it
                out, and `copy` puts the source symbol there that the model looked at most, an unknown one if the source
                has any.
            progress: show a progress bar on stderr, if that is a terminal.

        Raises:
            UserError: if an option is impossible, a source is longer than the model has positions for (see `read`), or
                symbols are to be copied by a model without attention.
        """
        if isinstance(sources, str):
            how: dict[str, Any] = {"beam": beam, "length_penalty": length_penalty, "unknown": unknown}
            return self.translate([sources], progress=progress, **how)[0]
        options = self.search_options(beam, length_penalty, n_best=1)
        return [text for _, [text] in self._search(sources, options, unknown, progress)]

    def n_best(
        self,
        sources: Sequence[str] | Reading,
        n: int,
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        unknown: Unknown = "mark",
        progress: bool = False,
    ) -> list[list[Translation]]:
        """The n best outputs of different texts for each source, the highest score first; see `distinct`.

        A blank source has a single, empty one. There may be fewer than n if those in the beam have fewer texts.
        All else is as in `translate`, but that without `beam` the search is as wide as `beam_for` says.
        """
        if isinstance(sources, str):
            raise UserError("n_best takes a list of sources, not a text: [source]")
        options = self.search_options(self.beam_for(n) if beam is None else beam, length_penalty, n_best=n)
        return [
            [self._translation(row[index], texts[index]) for index in distinct(row, texts, n)]
            for row, texts in self._search(sources, options.widened(), unknown, progress)
        ]

    def beam_for(self, n: int) -> int:
        """How wide to search for n different texts: `options.beam`, but at least n.

        And twice that where a text may be cut into pieces in several ways, so that several outputs may be one text.
        """
        several = n > 1 and self.tokenizers.target.kind not in UNAMBIGUOUS
        return max(self.options.beam, 2 * n if several else n)

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: bool = False) -> list[TargetScore]:
        """How probable the model finds each target, given its source; `UserError` if one is too long, see `encode`."""
        sources = self.encode([source for source, _ in pairs], "source")
        targets = self.encode([target for _, target in pairs], "target")
        pieces = self.tokenizers.target.pieces
        found = zip(targets, self.score_ids(sources, targets, progress=progress), strict=True)
        return [TargetScore(pieces(target), row) for target, row in found]

    def search(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions | None = None,
        *,
        prefixes: Sequence[Sequence[int]] | None = None,
        progress: bool = False,
    ) -> list[list[Hypothesis]]:
        """The best outputs of each source, in order, as ids.

        Args:
            sources: ids, with eos; see `encode`.
            options: how to search, in place of the translator's own.
            prefixes: for each source the ids that its outputs begin with.
            progress: see `translate`.

        Raises:
            UserError: if the engine has no prefixes, or one is impossible.
        """
        request = Request(sources, options or self.options, prefixes)
        with bar(len(sources), "lines", progress) as advance:
            return self.engine.search(request, batch_tokens=self.batch_tokens, on_progress=advance)

    def search_recorded(
        self, source: Sequence[int], options: SearchOptions | None = None, prefix: Sequence[int] = ()
    ) -> tuple[list[Hypothesis], BeamTree]:
        """A beam search of the model itself, and all that it considered; see `TorchEngine.search_recorded`."""
        return self.reference.search_recorded(source, options or self.options, prefix)

    def score_ids(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, progress: bool = False
    ) -> list[list[float]]:
        """Natural log-probability of each token of each target; sources and targets are ids, with eos."""
        lengths = [max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]
        batches = length_sorted_batches(lengths, self.batch_tokens)
        found = (self.engine.score([sources[i] for i in batch], [targets[i] for i in batch]) for batch in batches)
        with bar(len(lengths), "lines", progress) as advance:
            return in_order(batches, found, advance)

    def search_options(self, beam: int | None, length_penalty: float | None, n_best: int) -> SearchOptions:
        """The translator's own options with some of them replaced; `UserError` if they are impossible."""
        said = {"beam": beam, "length_penalty": length_penalty, "n_best": n_best}
        return self.options.changed(**{name: value for name, value in said.items() if value is not None})

    def _search(
        self, sources: Sequence[str] | Reading, options: SearchOptions, unknown: Unknown, progress: bool
    ) -> Iterator[tuple[list[Hypothesis], list[str]]]:
        """The hypotheses for each source, in the order of the input, and their texts."""
        if unknown not in get_args(Unknown):
            raise UserError(f"unknown must be {' or '.join(get_args(Unknown))}, not {unknown!r}")
        if unknown == "copy" and not attends(self.model):
            raise UserError("unknown symbols cannot be copied: this model has no attention to tell where they are from")
        reading = sources if isinstance(sources, Reading) else self.read(sources)
        filled = [bool(text.strip()) for text in reading.texts]
        wanted = [ids for ids, is_filled in zip(reading.ids, filled, strict=True) if is_filled]
        searched = iter(self.search(wanted, options, progress=progress) if wanted else [])
        found = [next(searched) if is_filled else [_NOTHING] for is_filled in filled]

        target, copied = self.tokenizers.target, None
        outputs = [hypothesis.tokens for row in found for hypothesis in row]
        if unknown == "drop":
            outputs = [[token for token in tokens if token != target.unk] for tokens in outputs]
        elif unknown == "copy":
            source_of = [index for index, row in enumerate(found) for _ in row]
            copied = copied_symbols(self.model, self.tokenizers, reading, source_of, outputs, self.batch_tokens)
        texts = iter(target.decode(outputs, copied))
        return ((row, list(islice(texts, len(row)))) for row in found)

    def translation(self, hypothesis: Hypothesis) -> Translation:
        """A search's output as text."""
        return self._translation(hypothesis, self.tokenizers.target.decode([hypothesis.tokens])[0])

    def _translation(self, found: Hypothesis, text: str) -> Translation:
        pieces = self.tokenizers.target.pieces(found.tokens)
        return Translation(text, found.score, found.log_probability, pieces, found.finished)

    def encode(self, texts: Sequence[str], side: Side = "source") -> list[list[int]]:
        """Ids of each text, eos included as in training; see `read`."""
        return self.read(texts, side).ids

    def read(self, texts: Sequence[str], side: Side = "source", *, cut: bool = False) -> Reading:
        """What a model reads of some texts: for who wants to know what it does not know, or what is too long for it.

        Args:
            texts: of one side.
            side: source or target.
            cut: whether to cut what is too long for the model.

        Raises:
            UserError: if texts have too many tokens for the model, and are not to be cut: a `FaultyItems`, which says
                which.
        """
        tokenizer = self.tokenizers.source if side == "source" else self.tokenizers.target
        longest = self.engine.longest
        why = f"engine {self.engine.name} has positions for {longest}: shorten it, or take engine torch"
        if longest == self.model.longest:
            why = f"the model has learned {longest} positions only: shorten it, or train with a larger "
            why += "model.max_length or another model.position"
        return Reading.of(texts, tokenizer, longest, cut=cut, side=side, why=why)
