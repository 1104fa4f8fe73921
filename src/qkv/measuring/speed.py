"""How fast a model is: on made-up sequences of one length, and on real sources."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from qkv.nn.seq2seq import Memory, Seq2Seq
from qkv.text.batches import Batch
from qkv.training.loss import batch_loss
from qkv.translator import Translator

LENGTHS = (8, 16, 32, 64, 128)
"""Of made-up sequences, in tokens."""
BATCH_TOKENS = 1024
"""Target tokens of a made-up batch for training, whatever the length of its sequences."""
DECODED_ROWS = 16
"""Sequences that are decoded side by side when decoding is timed."""

_REPEATS = 5
_SECONDS_EACH = 0.6
_SOURCES = 200


@dataclass(frozen=True)
class LengthTime:
    """Times on made-up sequences of one length.

    Attributes:
        length: tokens of each source and each target.
        training_seconds: of one forward and backward pass.
        decoding_seconds: of one step of decoding, divided by its rows.
    """

    length: int
    training_seconds: float
    decoding_seconds: float


@dataclass(frozen=True)
class DecodingSpeed:
    """How fast some sources are decoded; tokens are those of the outputs, without end of sentence."""

    sources: int
    beam: int
    seconds: float
    sentences_per_second: float
    tokens_per_second: float


def times_by_length(
    model: Seq2Seq,
    source_vocab: int,
    target_vocab: int,
    *,
    lengths: Sequence[int],
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[LengthTime]:
    """Time training and decoding for sequences of some lengths; those beyond the model's `longest` are left out.

    Each time is the median of a few repetitions after one to warm up, within about a second. The model's mode is as
    before, but its gradients are gone.

    Args:
        model: on the device that is to be timed.
        source_vocab: source tokens are drawn from so many.
        target_vocab: target tokens, likewise.
        lengths: tokens of each source and target.
        autocast: gives the context that training computes in.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)

    def tokens(rows: int, length: int, vocab: int) -> torch.Tensor:
        return torch.randint(vocab, (rows, length), generator=generator).to(device)

    was_training = model.training
    found = []
    for length in lengths:
        if model.longest is not None and length > model.longest:
            continue
        rows = max(1, BATCH_TOKENS // length)
        targets = tokens(rows, length, target_vocab)
        batch = Batch(tokens(rows, length, source_vocab), None, targets, targets, None, rows * length)
        training = _median_seconds(lambda: _learn(model.train(), batch, autocast), device)  # noqa: B023
        source, target = (tokens(DECODED_ROWS, length, vocab) for vocab in (source_vocab, target_vocab))
        memory = _encode(model.eval(), source)
        decoding = _median_seconds(lambda: _decode(model, memory, target), device)  # noqa: B023
        found.append(LengthTime(length, training, decoding / (DECODED_ROWS * length)))
    model.train(was_training)
    model.zero_grad(set_to_none=True)
    return found


def decoding_speed(translator: Translator, sources: Sequence[str], beam: int) -> DecodingSpeed:
    """Decode at most 200 of the sources, spread evenly over all of them; a few first, to warm up."""
    every = max(1, -(-len(sources) // _SOURCES))
    chosen = [source for source in sources[::every] if source.strip()]
    translator.translate(chosen[:8], beam=beam)
    _wait_for(translator.device)
    began = time.perf_counter()
    found = translator.n_best(chosen, 1, beam=beam)
    _wait_for(translator.device)
    seconds = time.perf_counter() - began
    tokens = sum(len(best[0].tokens) for best in found)
    return DecodingSpeed(len(chosen), beam, seconds, len(chosen) / seconds, tokens / seconds)


def _learn(model: Seq2Seq, batch: Batch, autocast: Callable[[], AbstractContextManager[object]]) -> None:
    model.zero_grad(set_to_none=True)
    with autocast():
        loss = batch_loss(model, batch).smoothed
    loss.backward()


@torch.inference_mode()
def _encode(model: Seq2Seq, source: torch.Tensor) -> Memory:
    return model.encode(source)


@torch.inference_mode()
def _decode(model: Seq2Seq, memory: Memory, target: torch.Tensor) -> None:
    """Decode the given target token by token, as a greedy search would if it found these tokens."""
    state = model.start(memory)
    for position in range(target.shape[1]):
        hidden = model.decode(target[:, position : position + 1], memory, state)
        model.project(hidden[:, -1]).argmax(dim=-1)


def _median_seconds(function: Callable[[], None], device: torch.device) -> float:
    function()
    _wait_for(device)
    times: list[float] = []
    while len(times) < _REPEATS and (len(times) < 2 or sum(times) < _SECONDS_EACH):
        began = time.perf_counter()
        function()
        _wait_for(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
