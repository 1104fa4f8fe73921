"""How fast a model is: on made-up sequences of one length, and on real sources."""

import copy
import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import torch

from qkv.config.schema import TrainingConfig
from qkv.decoding.engines.contract import title
from qkv.decoding.ranking import best_token
from qkv.decoding.steps import Progress
from qkv.devices import undisturbed
from qkv.measuring.environment import seconds_of
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import Batch
from qkv.training.gradient import Gradient
from qkv.training.optimization import Optimization
from qkv.translator import Translation, Translator

LENGTHS = (8, 16, 32, 64, 128)
"""Of made-up sequences, in tokens."""
BATCH_TOKENS = 1024
"""Target tokens of a made-up batch for training, whatever the length of its sequences."""
DECODED_ROWS = 16
"""Sequences that are decoded side by side when decoding is timed."""

Given = TypeVar("Given")

_REPEATS = 5
_SECONDS_EACH = 0.6
_SOURCES = 200


@dataclass(frozen=True)
class LengthTime:
    """Times on made-up sequences of one length.

    Attributes:
        length: tokens of each source and each target.
        training_seconds: of one step of training.
        decoding_seconds: of one step of greedy search, divided by its rows.
    """

    length: int
    training_seconds: float
    decoding_seconds: float


@dataclass(frozen=True)
class DecodingSpeed:
    """How fast some sources are decoded; tokens are those of the outputs, without end of sentence.

    `engine` is what did it, as the translator's own engine calls itself.
    """

    engine: str
    sources: int
    beam: int
    seconds: float
    sentences_per_second: float
    tokens_per_second: float


class TrainingStep:
    """Steps as the trainer takes them: batches in parts by threads, then the optimizer's step, with a copy of a model.

    Its weights stay where they are, as the learning rate is 0.

    Args:
        model: on the device that is to be timed; it is not changed.
        settings: the recipe's training section.
    """

    def __init__(self, model: Seq2Seq, settings: TrainingConfig):
        device = next(model.parameters()).device
        self._model = copy.deepcopy(model).train()
        self._optimization = Optimization(self._model, settings, device)
        self._gradient = Gradient(self._model, self._optimization, settings, device)
        self._steps = 0

    def __call__(self, batches: Sequence[Batch]) -> None:
        """One step over batches that lie on the device."""
        self._steps += 1
        self._optimization.zero_grad()
        self._gradient.add(batches)
        self._optimization.step(self._steps, learning_rate=0.0)

    def close(self) -> None:
        """Let the threads end."""
        self._gradient.close()


def times_by_length(translator: Translator, settings: TrainingConfig, *, lengths: Sequence[int]) -> list[LengthTime]:
    """Time training and decoding for sequences of some lengths; those beyond the model's `longest` are left out.

    Training is timed as the trainer does it; decoding is that of the model itself, laid out for decoding, whichever
    engine translates: the same steps for every architecture. Each time is the median of a few repetitions after one to
    warm up, within about a second. The model is not changed; `settings` are the recipe's training section.
    """
    device, longest = translator.device, translator.model.longest
    generator = torch.Generator().manual_seed(0)

    def tokens(rows: int, length: int, vocab: int) -> torch.Tensor:
        return torch.randint(vocab, (rows, length), generator=generator).to(device)

    tokenizers = translator.tokenizers
    source_vocab, target_vocab = tokenizers.source.vocab_size, tokenizers.target.vocab_size
    found = []
    with undisturbed(), closing(TrainingStep(translator.model, settings)) as step:
        for length in lengths:
            if longest is not None and length > longest:
                continue
            rows = max(1, BATCH_TOKENS // length)
            targets = tokens(rows, length, target_vocab)
            batch = Batch(tokens(rows, length, source_vocab), None, targets, targets, None, rows * length)
            training = _median_seconds(lambda: [batch], step, device)  # noqa: B023
            source, target = (tokens(DECODED_ROWS, length, vocab) for vocab in (source_vocab, target_vocab))
            decoding = _decoding_seconds(translator, source, target)
            found.append(LengthTime(length, training, decoding / (DECODED_ROWS * length)))
    return found


def decoding_speed(translator: Translator, sources: Sequence[str], beam: int) -> DecodingSpeed:
    """Decode at most 200 of the sources, spread evenly over all of them; a few first, to warm up."""
    every = max(1, -(-len(sources) // _SOURCES))
    chosen = [source for source in sources[::every] if source.strip()]
    translator.translate(chosen[:8], beam=beam)
    found: list[list[Translation]] = []
    seconds = seconds_of(lambda: found.extend(translator.n_best(chosen, 1, beam=beam)), translator.device)
    tokens = sum(len(best[0].tokens) for best in found)
    return DecodingSpeed(title(translator.engine), len(chosen), beam, seconds, len(chosen) / seconds, tokens / seconds)


def _decoding_seconds(translator: Translator, source: torch.Tensor, target: torch.Tensor) -> float:
    """Of a greedy search, step by step, as if it found these tokens; its encoder's time is not in it."""

    def decode(progress: Progress) -> None:
        for newest in target.T:
            best_token(progress.step(newest))

    def begin() -> Progress:
        special = translator.tokenizers.target
        return Progress(translator.reference.model, source, bos=special.bos, eos=special.eos, pad=special.pad)

    with torch.inference_mode():
        return _median_seconds(begin, decode, translator.device)


def _median_seconds(prepare: Callable[[], Given], function: Callable[[Given], None], device: torch.device) -> float:
    """How long `function` takes; what it is given is made anew each time, off the clock."""
    times: list[float] = []
    while len(times) < 1 + _REPEATS and (len(times) < 3 or sum(times[1:]) < _SECONDS_EACH):
        given = prepare()
        times.append(seconds_of(lambda: function(given), device))  # noqa: B023
    return statistics.median(times[1:])  # the first was to warm up
