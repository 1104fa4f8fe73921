"""From text to text: a trained model, its tokenizers and a search."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import torch

from qkv.decoding.beam_tree import BeamTree
from qkv.decoding.engines.contract import Engine, Opening, Request
from qkv.decoding.engines.registry import ENGINES
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.sentences import in_order, length_sorted_batches
from qkv.decoding.shortlist import open_shortlist
from qkv.devices import pick_device
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq
from qkv.progress import bar
from qkv.run.checkpoint import load_model
from qkv.run.directory import Run
from qkv.text.tokenizer import Tokenizers


@dataclass(frozen=True)
class Translation:
    """One output.

    Attributes:
        text: the output.
        score: what outputs of one source are ranked by; see `SearchOptions.length_penalty`.
        log_probability: natural log-probability of the output given the source.
        tokens: the pieces that the text is made of.
    """

    text: str
    score: float
    log_probability: float
    tokens: list[str]


@dataclass(frozen=True)
class TargetScore:
    """How probable a model finds a given target.

    Attributes:
        tokens: the target's pieces, its end of sentence included.
        token_log_probabilities: of each of these, given the source and the pieces before it.
    """

    tokens: list[str]
    token_log_probabilities: list[float]

    @property
    def log_probability(self) -> float:
        """Natural log-probability of the whole target."""
        return math.fsum(self.token_log_probabilities)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability per token: 1 if the model was certain of each."""
        return math.exp(-self.log_probability / len(self.tokens))


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
        self, sources: str, *, beam: int | None = ..., length_penalty: float | None = ..., progress: bool = ...
    ) -> str: ...

    @overload
    def translate(
        self,
        sources: Sequence[str],
        *,
        beam: int | None = ...,
        length_penalty: float | None = ...,
        progress: bool = ...,
    ) -> list[str]: ...

    def translate(
        self,
        sources: str | Sequence[str],
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        progress: bool = False,
    ) -> str | list[str]:
        """The best output for one source, or for each of several. A blank source gives an empty output.

        Args:
            sources: one text or several.
            beam: in place of `options.beam`; 1 is greedy search.
            length_penalty: in place of `options.length_penalty`.
            progress: show a progress bar on stderr, if that is a terminal.

        Raises:
            UserError: if an option is impossible, or a source is longer than the model has positions for.
        """
        if isinstance(sources, str):
            return self.translate([sources], beam=beam, length_penalty=length_penalty, progress=progress)[0]
        if not sources:
            return []
        options = self.search_options(beam, length_penalty, n_best=1)
        best = [found[0].tokens if found else [] for found in self._search(sources, options, progress)]
        return self.tokenizers.target.decode(best)

    def n_best(
        self,
        sources: Sequence[str],
        n: int,
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        progress: bool = False,
    ) -> list[list[Translation]]:
        """The n best outputs for each source, best first; a blank source has a single, empty one.

        All else is as in `translate`, but that `options.beam`, if no other is given, is widened to n if it is narrower.
        """
        if isinstance(sources, str):
            raise UserError("n_best takes a list of sources, not a text: [source]")
        beam = max(n, self.options.beam) if beam is None else beam
        options = self.search_options(beam, length_penalty, n_best=n)
        return [
            [self.translation(hypothesis) for hypothesis in found] or [Translation("", 0.0, 0.0, [])]
            for found in self._search(sources, options, progress)
        ]

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

    def _search(self, sources: Sequence[str], options: SearchOptions, progress: bool) -> list[list[Hypothesis]]:
        """The hypotheses for each source, in the order of the input; none for a blank one."""
        encoded = self.encode(sources, "source")
        wanted = [ids for ids, source in zip(encoded, sources, strict=True) if source.strip()]
        found = iter(self.search(wanted, options, progress=progress))
        return [next(found) if source.strip() else [] for source in sources]

    def translation(self, hypothesis: Hypothesis) -> Translation:
        """A search's output as text."""
        target, found = self.tokenizers.target, hypothesis
        [text] = target.decode([found.tokens])
        return Translation(text, found.score, found.log_probability, target.pieces(found.tokens))

    def encode(self, texts: Sequence[str], side: Literal["source", "target"]) -> list[list[int]]:
        """Ids of each text, eos included as in training; `UserError` if one has too many for the model."""
        tokenizer = self.tokenizers.source if side == "source" else self.tokenizers.target
        encoded = [[*ids, tokenizer.eos] for ids in tokenizer.encode(texts)]
        limit = self.model.longest
        for number, ids in enumerate(encoded, start=1):
            if limit is not None and len(ids) > limit:
                raise UserError(
                    f"{side} {number} has {len(ids)} tokens, but the model has learned {limit} positions "
                    "only: shorten it, or train with a larger model.max_length or another model.position"
                )
        return encoded


def load(
    run: str | Path,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    engine: str | None = None,
    precision: str | None = None,
    shortlist: int | None = None,
) -> Translator:
    """A translator from a run directory, with the run's own decoding options.

    Args:
        run: the run directory.
        checkpoint: the run's best by default.
        device: auto, cpu, cuda or cuda:N.
        engine: what searches and scores, in place of `decoding.engine`: auto, torch or ctranslate2. Of auto's choice
            `translator.engine.note` tells.
        precision: what it computes in, in place of `decoding.precision`: float32, bf16, fp16 or int8.
        shortlist: target tokens looked at for each source token, in place of `decoding.shortlist`.

    Raises:
        UserError: if it is no run, or has no such checkpoint or one that does not fit, or the device does not
            exist here, or the engine cannot run the model, or not in this precision.
    """
    opened = Run.open(run)
    decoding = opened.config.decoding
    path, tokenizers = opened.find_checkpoint(checkpoint), opened.tokenizers()
    model = load_model(path, opened.config.model.architecture).to(pick_device(device))
    outputs, tokens = model.output.out_features, tokenizers.target.vocab_size
    if outputs != tokens:
        raise UserError(f"{path}: of another shape: it has {outputs:,} target tokens, this run has {tokens:,}")
    narrow, count = None, decoding.shortlist if shortlist is None else shortlist
    if count is not None:
        narrow = open_shortlist(opened.shortlist_path(count), opened.encoded_path("train"), tokenizers, count)
    opening = Opening(
        model.eval(),
        tokenizers,
        decoding.precision if precision is None else precision,
        narrow,
        opened.path / "engines",
        path.name,
        frozenset(each.name for each in opened.checkpoints_path.glob("*")),
    )
    made = ENGINES.find(decoding.engine if engine is None else engine).open(opening)
    options, batch_tokens = decoding.search_options(), decoding.batch_tokens
    return Translator(model, tokenizers, options=options, batch_tokens=batch_tokens, engine=made)
