"""From text to text: a trained model, its tokenizers and a search."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import torch

from qkv.decoding.engines.contract import Engine
from qkv.decoding.hypothesis import Hypothesis, SearchOptions
from qkv.decoding.scoring import score_targets
from qkv.decoding.sentences import length_sorted_batches, search_all
from qkv.devices import keep_freed_memory, pick_device
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import load_model
from qkv.run.directory import Run
from qkv.text.batches import pad
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
        engine: searches and scores in place of the model.
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
        self.engine = engine
        self.device = next(model.parameters()).device if device is None else torch.device(device)
        self.model = model.to(self.device).eval()
        self.tokenizers, self.options, self.batch_tokens = tokenizers, options, batch_tokens

    @overload
    def translate(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
        self,
        sources: str,
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        progress: bool = False,
    ) -> str: ...

    @overload
    def translate(
        self,
        sources: Sequence[str],
        *,
        beam: int | None = None,
        length_penalty: float | None = None,
        progress: bool = False,
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

        Args:
            sources: the texts.
            n: outputs for each.
            beam: in place of `options.beam`, which is widened to n if it is narrower.
            length_penalty: see `translate`.
            progress: see `translate`.

        Raises:
            UserError: see `translate`.
        """
        beam = max(n, self.options.beam) if beam is None else beam
        options = self.search_options(beam, length_penalty, n_best=n)
        return [
            [self.translation(hypothesis) for hypothesis in found] or [Translation("", 0.0, 0.0, [])]
            for found in self._search(sources, options, progress)
        ]

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: bool = False) -> list[TargetScore]:
        """How probable the model finds each target, given its source.

        Raises:
            UserError: if a source or target is longer than the model has positions for.
        """
        sources = self.encode([source for source, _ in pairs], "source")
        targets = self.encode([target for _, target in pairs], "target")
        lengths = [max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]
        scores: dict[int, TargetScore] = {}
        with _progress_bar(len(pairs), progress) as advance:
            for batch in length_sorted_batches(lengths, self.batch_tokens):
                found = self._score_batch([sources[i] for i in batch], [targets[i] for i in batch])
                scores.update(zip(batch, found, strict=True))
                advance(len(batch))
        return [scores[index] for index in range(len(pairs))]

    def search_options(self, beam: int | None, length_penalty: float | None, n_best: int) -> SearchOptions:
        """The translator's own options with some of them replaced; `UserError` if they are impossible."""
        return self.options.changed(
            beam=self.options.beam if beam is None else beam,
            length_penalty=self.options.length_penalty if length_penalty is None else length_penalty,
            n_best=n_best,
        )

    def _search(self, sources: Sequence[str], options: SearchOptions, progress: bool) -> list[list[Hypothesis]]:
        """The hypotheses for each source, in the order of the input; none for a blank one."""
        encoded = self.encode(sources, "source")
        wanted = [index for index, source in enumerate(sources) if source.strip()]
        chosen = [encoded[index] for index in wanted]
        with _progress_bar(len(wanted), progress) as advance:
            if self.engine is not None:
                found = self.engine.search(chosen, options, batch_tokens=self.batch_tokens, on_progress=advance)
            else:
                found = search_all(
                    self.model,
                    chosen,
                    self.tokenizers,
                    options,
                    batch_tokens=self.batch_tokens,
                    device=self.device,
                    on_progress=advance,
                )
        results: list[list[Hypothesis]] = [[] for _ in sources]
        for index, hypotheses in zip(wanted, found, strict=True):
            results[index] = hypotheses
        return results

    def _score_batch(self, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> list[TargetScore]:
        tokenizer = self.tokenizers.target
        if self.engine is not None:
            rows = self.engine.score(sources, targets)
        else:
            source, source_mask = self._pad(sources, self.tokenizers.source.pad)
            target_input, _ = self._pad([[tokenizer.bos, *target[:-1]] for target in targets], tokenizer.pad)
            target_output, target_mask = self._pad(targets, tokenizer.pad)
            rows = score_targets(self.model, source, source_mask, target_input, target_output, target_mask).tolist()
        return [
            TargetScore(tokenizer.pieces(target), row[: len(target)]) for target, row in zip(targets, rows, strict=True)
        ]

    def translation(self, hypothesis: Hypothesis) -> Translation:
        """A search's output as text."""
        target, tokens = self.tokenizers.target, hypothesis.tokens
        return Translation(
            target.decode([tokens])[0], hypothesis.score, hypothesis.log_probability, target.pieces(tokens)
        )

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

    def _pad(self, encoded: Sequence[list[int]], value: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        padded, mask = pad(encoded, value)
        return padded.to(self.device), None if mask is None else mask.to(self.device)


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
        engine: what searches and scores, in place of `decoding.engine`: torch or ctranslate2.
        precision: what it computes in, in place of `decoding.precision`: float32, bf16, fp16 or int8.
        shortlist: target tokens looked at for each source token, in place of `decoding.shortlist`; engine torch only.

    Raises:
        UserError: if it is no run, or has no such checkpoint or one that does not fit, or the device does not
            exist here, or the engine cannot run the model, or not in this precision or with a shortlist.
    """
    opened = Run.open(run)
    decoding = opened.config.decoding
    path, tokenizers = opened.find_checkpoint(checkpoint), opened.tokenizers()
    model = load_model(path, opened.config.model.architecture).to(pick_device(device))
    outputs, tokens = model.output.out_features, tokenizers.target.vocab_size
    if outputs != tokens:
        raise UserError(f"{path}: of another shape: it has {outputs:,} target tokens, this run has {tokens:,}")
    if pick_device(device).type == "cpu":
        keep_freed_memory()
    translator = Translator(model, tokenizers, options=decoding.search_options(), batch_tokens=decoding.batch_tokens)
    if shortlist is None and engine != "ctranslate2":  # who asks for that by name goes without the recipe's shortlist
        shortlist = decoding.shortlist
    engine = decoding.engine if engine is None else engine
    precision = decoding.precision if precision is None else precision
    if engine == "ctranslate2":
        from qkv.decoding.engines.ctranslate2_cache import open_engine

        if shortlist is not None:
            raise UserError("engine ctranslate2 has no shortlist: leave that out, or take engine torch")
        translator.engine = open_engine(
            opened, path, translator.model, tokenizers, precision=precision, device=translator.device
        )
    elif engine != "torch":
        raise UserError(f"unknown engine {engine!r}: use torch or ctranslate2")
    else:
        from qkv.decoding.engines.torch_engine import TorchEngine, lower_precision, shortlist_of

        translator.engine = TorchEngine(
            lower_precision(translator.model, precision, translator.device),
            tokenizers,
            translator.device,
            None if shortlist is None else shortlist_of(opened, tokenizers, shortlist),
        )
    return translator


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, moved on by calling what is yielded; none if `show` is false or no terminal is there."""
    from tqdm import tqdm

    with tqdm(total=total, unit=" lines", disable=None if show else True) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance
