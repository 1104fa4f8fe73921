"""CTranslate2 in place of torch for searching and scoring.

Its beam search has the rules of `qkv.decoding.beam`: the score is log-probability / length^penalty with the end of
sentence counted in, and a sentence is done when as many outputs have ended as the beam is wide (its `patience` is 1).
It knows one limit of length for a batch, and at the limit it ranks what was cut off among what has ended; both are made
up for here, by searching again where it matters. Two differences remain:

- What must not be emitted (padding, beginning of sentence) is taken out before the softmax, not after it, so that a
  log-probability is higher by what the model would have given these: about 1e-5 a token for a trained model.
- A source without tokens before its end of sentence has an empty output.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from qkv.decoding.cpu.side_by_side import side_by_side
from qkv.decoding.engines.contract import Request
from qkv.decoding.engines.ctranslate2_model import library, vocabulary
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.sentences import in_order, length_sorted_batches
from qkv.decoding.shortlist import Shortlist
from qkv.errors import UserError
from qkv.text.tokenizer import Tokenizers

COMPUTE_TYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
"""What CTranslate2 calls our precisions, and how weights are stored for each."""

BATCH_TOKENS = 2048
"""Source tokens × beam in a batch, at most: few and large batches are hard to share out among threads."""
GREEDY_TOKENS = 1024
"""The same of a greedy search, which is over so soon that an uneven share counts for more."""

_ALMOST_ZERO = 1e-9
"""As a length penalty it changes no score, but with 0 itself a search stops before it knows the n best."""
_ENDED_FIRST = -8.0
"""A length penalty that ranks by brevity, so that what was cut off at the limit, the longest of all, comes last."""


def compute_type(precision: str, device: torch.device) -> str:
    """What CTranslate2 calls a precision; `UserError` if it has none such on this device here, or is not installed."""
    if precision not in COMPUTE_TYPES:
        raise UserError(f"engine ctranslate2 has no precision {precision!r}; it has {', '.join(COMPUTE_TYPES)}")
    wanted, able = COMPUTE_TYPES[precision], library().get_supported_compute_types(device.type)
    if wanted not in able:
        raise UserError(f"CTranslate2 cannot compute in {wanted} here, but in {', '.join(sorted(able))}")
    return wanted


class CTranslate2Engine:
    """A model that was written by `ctranslate2_model.specification`, loaded. It keeps the contract of `Engine`.

    Args:
        path: the exported directory.
        tokenizers: those that it was exported with.
        longest: the most tokens that a source or target may have.
        precision: what to compute in: one of `COMPUTE_TYPES`.
        device: where.
        shortlist: limits the target tokens that a search looks at; the directory holds it as vmap.txt.

    The model is loaded when it is first needed; as many batches are worked on at a time as torch has threads.

    Raises:
        UserError: if CTranslate2 is not installed, or cannot compute so here; when first used, if it cannot load it.
    """

    name = "ctranslate2"
    exact = False
    lacks = frozenset({"prefix"})

    def __init__(
        self,
        path: str | Path,
        tokenizers: Tokenizers,
        *,
        longest: int,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        shortlist: Shortlist | None = None,
    ):
        device = torch.device(device)
        self.precision, self.shortlist, self.note = precision, shortlist, ""
        self._path, self._compute_type, self._device = Path(path), compute_type(precision, device), device
        self._workers = torch.get_num_threads() if device.type == "cpu" else 1
        self._loaded: Any = None
        self.longest = longest
        self._source_names, self._target_names = vocabulary(tokenizers.source), vocabulary(tokenizers.target)
        self._id_of = {name: number for number, name in enumerate(self._target_names)}
        special = tokenizers.target
        self._eos = special.eos
        self._forbidden = [[self._target_names[i]] for i in (special.bos, special.pad) if i not in (special.eos, -1)]

    def search(
        self, request: Request, *, batch_tokens: int = 8192, on_progress: Callable[[int], object] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.search`."""
        if request.prefixes is not None:
            raise UserError("engine ctranslate2 cannot begin outputs with a prefix: take engine torch")
        sources, options = request.sources, request.options
        lengths = [len(source) for source in sources]
        self._check(lengths, "source")
        self._load()
        limits = options.length_limits(lengths, self.longest)
        most = BATCH_TOKENS if options.beam > 1 else GREEDY_TOKENS
        batches = length_sorted_batches(lengths, min(batch_tokens, most) // options.beam)
        work = partial(self._search_batch, sources, limits, options)
        return in_order(batches, side_by_side(work, batches, self._workers), on_progress)

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""
        self._check(map(len, sources), "source")
        self._check(map(len, targets), "target")
        scored = self._load().score_batch(
            self._pieces(sources),
            [[self._target_names[token] for token in target[:-1]] for target in targets],  # it adds the end itself
            max_input_length=0,
        )
        return [list(each.log_probs) for each in scored]

    def _load(self) -> Any:
        """The model, with a worker of one thread for each batch at once.

        Beside torch's threads, two for one batch were measured to be slower than one (benchmarks/RESULTS.md).
        """
        if self._loaded is None:
            make = partial(
                library().Translator,
                str(self._path),
                device=self._device.type,
                device_index=self._device.index or 0,
                compute_type=self._compute_type,
                inter_threads=self._workers,
                intra_threads=1,
            )
            try:
                # It sets OpenMP's number of threads, which torch uses, too, for the thread that it is loaded by.
                with ThreadPoolExecutor(1) as aside:
                    self._loaded = aside.submit(make).result()
            except (RuntimeError, ValueError) as error:
                raise UserError(f"{self._path}: CTranslate2 cannot load it: {error}") from None
        return self._loaded

    def _search_batch(
        self, sources: Sequence[Sequence[int]], limits: Sequence[int], options: SearchOptions, batch: list[int]
    ) -> list[list[Hypothesis]]:
        """For each index in the batch, the best outputs of that source, within its own limit."""
        results: dict[int, list[Hypothesis]] = {}
        # One limit goes for a whole batch. Where an output is longer than its own allows, it is searched again.
        waiting = [(max(limits[index] for index in batch), batch)]
        while waiting:
            limit, indices = waiting.pop()
            found = self._translate([sources[index] for index in indices], options, limit)
            again = []
            for index, hypotheses in zip(indices, found, strict=True):
                results[index] = hypotheses
                if any(len(each.tokens) + each.finished > limits[index] for each in hypotheses):
                    again.append(index)
            again.sort(key=limits.__getitem__)
            waiting += [(own, list(group)) for own, group in groupby(again, key=limits.__getitem__)]
        return [results[index] for index in batch]

    def _translate(
        self, sources: Sequence[Sequence[int]], options: SearchOptions, limit: int
    ) -> list[list[Hypothesis]]:
        """Search with one limit for all."""
        penalty = options.length_penalty if options.n_best == 1 else max(options.length_penalty, _ALMOST_ZERO)
        found = self._call(sources, options, limit, options.n_best, penalty)
        cut_off = [index for index, each in enumerate(found) if not all(hypothesis.finished for hypothesis in each)]
        if cut_off and options.beam > 1:
            chosen = [sources[index] for index in cut_off]
            again = self._call(chosen, options, limit, options.beam, _ENDED_FIRST)
            for index, hypotheses in zip(cut_off, again, strict=True):
                found[index] = hypotheses[: options.n_best]
        return found

    def _call(
        self, sources: Sequence[Sequence[int]], options: SearchOptions, limit: int, count: int, penalty: float
    ) -> list[list[Hypothesis]]:
        """The `count` outputs that are best by a length penalty of its own, then ranked as `options` say."""
        found = self._load().translate_batch(
            self._pieces(sources),
            beam_size=options.beam,
            num_hypotheses=count,
            length_penalty=penalty,
            max_decoding_length=limit,
            min_decoding_length=0,
            max_input_length=0,
            suppress_sequences=self._forbidden,
            use_vmap=self.shortlist is not None,
            return_end_token=True,
            return_scores=True,
        )
        return [self._hypotheses(result, options, penalty) for result in found]

    def _hypotheses(self, result: Any, options: SearchOptions, penalty: float) -> list[Hypothesis]:
        """Best first, and first of all those that ended."""
        hypotheses = []
        for names, score in zip(result.hypotheses, result.scores, strict=True):
            tokens = [self._id_of[name] for name in names]
            if not tokens:  # of a source without tokens
                return [Hypothesis([], 0.0, 0.0, finished=True)]
            finished = tokens[-1] == self._eos
            log_probability = score * len(tokens) ** penalty
            score = options.score(log_probability, len(tokens))
            hypotheses.append(Hypothesis(tokens[:-1] if finished else tokens, score, log_probability, finished))
        return sorted(hypotheses, key=lambda hypothesis: (hypothesis.finished, hypothesis.score), reverse=True)

    def _pieces(self, sources: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self._source_names[token] for token in source] for source in sources]

    def _check(self, lengths: Any, side: str) -> None:
        for number, length in enumerate(lengths, start=1):
            if length > self.longest:
                raise UserError(
                    f"{side} {number} has {length} tokens, but this model for CTranslate2 has positions for "
                    f"{self.longest}: shorten it, or use engine torch"
                )
