"""Shape analysis: one real forward pass, step by step: what happens, the tensor's axes, parameters, multiply–adds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from qkv.config.loading import model_options
from qkv.config.schema import ModelConfig
from qkv.errors import UserError
from qkv.inspection.axes import Axes
from qkv.inspection.descriptions import Named, describe
from qkv.inspection.forced import ModelOrRun, as_translator, led_along
from qkv.inspection.steps import Shapes, Step
from qkv.inspection.trace import Operation, trace
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import Seq2Seq
from qkv.translator import Translator


def shapes(model_or_run: ModelOrRun, source: str, target: str | None = None, *, beam: int | None = None) -> Shapes:
    """The analysis of a trained model with a sentence of one's own; arguments as for `qkv.attention_maps`."""
    translator = as_translator(model_or_run)
    source_ids, target_ids, _ = led_along(translator, source, target, beam=beam)
    return shapes_of_pair(translator, source_ids, target_ids, title="Shapes: a trained model")


def shapes_of_pair(translator: Translator, source: Sequence[int], target: Sequence[int], *, title: str) -> Shapes:
    """The analysis of a trained model with the ids of a pair, which it reads and is to predict."""
    tokenizers = translator.tokenizers
    read = [tokenizers.target.bos, *target[:-1]]
    pieces = {"source_tokens": tokenizers.source.pieces(source), "target_tokens": tokenizers.target.pieces(read)}
    return shapes_of_model(translator.model, source, read, title=title, **pieces)


def shapes_of_preset(
    architecture: str,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    vocab_size: int = 8_000,
    text: str = "A man sleeps .",
) -> Shapes:
    """The analysis of a model that has learnt nothing.

    Args:
        architecture: a name from `qkv.nn.architectures.ARCHITECTURES`.
        preset: one of its sizes; by default the options' defaults.
        options: of the architecture, in place of the preset's: {"num_heads": 8}.
        vocab_size: number of tokens of either side.
        text: its words, and an end of sentence, stand for the tokens of source and target.

    Raises:
        UserError: if there is no such architecture, preset or option, or a value is impossible.
    """
    model = ModelConfig(architecture=architecture, preset=preset, **dict(options or {}))
    config = model_options(model, vocab_size=vocab_size, target_vocab_size=vocab_size)
    words = text.split()
    longest = len(words) + 1
    if config.longest is not None and longest > config.longest:
        raise UserError(f"{longest} tokens are more than the model has positions for ({config.longest})")
    ids = [number % vocab_size for number in range(longest)]
    changed = "".join(f", {name} {value}" for name, value in (options or {}).items())
    return shapes_of_model(
        ARCHITECTURES[architecture].build(config),
        ids,
        ids,
        title=f"Shapes: {architecture}{f', {preset}' if preset else ''}{changed}, {vocab_size:,} tokens",
        source_tokens=[*words, "</s>"],
        target_tokens=["<s>", *words],
    )


def shapes_of_model(
    model: Seq2Seq,
    source: Sequence[int],
    target: Sequence[int],
    *,
    title: str = "Shapes",
    source_tokens: Sequence[str] | None = None,
    target_tokens: Sequence[str] | None = None,
) -> Shapes:
    """The analysis of any model that keeps the contract.

    Args:
        model: is run once and not changed.
        source: token ids.
        target: token ids that the decoder reads.
        title: which model it is.
        source_tokens: for show; the ids by default.
        target_tokens: for show; the ids by default.
    """
    device = next(model.parameters()).device
    ids = [torch.tensor([list(side)], device=device) for side in (source, target)]
    found, axes = trace(model, *ids), Axes(model)
    steps = [
        _input("source", "token ids of the source", len(source)),
        *_steps(found.operations.items(), axes, model.config),
        *(Step(name, "not used in this pass", "", (), (), parameters=count) for name, count in found.unused.items()),
    ]
    # The decoder's input stands before the first step that reads it.
    place = next((i for i, step in enumerate(steps) if step.path.startswith("target_embedding")), 1)
    steps.insert(place, _input("target", "token ids that the decoder reads", len(target)))
    read, led = (list(map(str, side)) for side in (source_tokens or source, target_tokens or target))
    return Shapes(title, read, led, steps)


def _input(name: str, what: str, length: int) -> Step:
    return Step(name, what, "", ("batch", name), (1, length))


def _steps(operations: Iterable[tuple[Any, Operation]], axes: Axes, config: Any) -> Iterator[Step]:
    for site, operation in operations:
        twin = axes.twin.operations.get(site, operation)
        named = Named(
            operation,
            before=axes.of(twin.before, operation.before),
            axes=axes.of(twin.shape, operation.shape),
            inner=None if twin.inner is None else axes.name(twin.inner),
            factor="" if operation.factor is None else axes.factor(twin.factor or 0.0, operation.factor, config),
        )
        words = describe(named)
        if words is None and not operation.parameters and not operation.multiply_adds:
            continue
        what, formula = words or (operation.name, "")
        yield Step(
            operation.path,
            what,
            formula,
            named.axes,
            operation.shape,
            operation.times,
            operation.parameters,
            operation.shared,
            operation.multiply_adds,
        )
