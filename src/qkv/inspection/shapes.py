"""Shape analysis: one real forward pass, step by step: what happens, the tensor's axes, parameters, multiply–adds."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qkv.inspection import shape_tables
from qkv.inspection.axes import Axes
from qkv.inspection.descriptions import Named, describe
from qkv.inspection.trace import Operation, trace
from qkv.nn.seq2seq import Seq2Seq

if TYPE_CHECKING:
    from qkv.run.directory import Run
    from qkv.translator import Translator

_LAYER = re.compile(r"(.*?)\.(\d+)(?=\.|$)(.*)")


@dataclass(frozen=True)
class Step:
    """One line of the analysis.

    Attributes:
        path: the module that does it, as in `named_modules`; of layers that are alike, encoder.layers.0–3.…
        what: happens, in words.
        formula: of it.
        axes: name of each axis of the result; of an axis without a name, its size.
        shape: size of each.
        times: how often it ran: once, but for each target token in a recurrent decoder.
        parameters: learnt numbers that no step before this one used.
        shared: all that it uses was counted at a step before.
        multiply_adds: of its matrix products, over all its runs.
        layers: how many layers, all alike, the line stands for.
    """

    path: str
    what: str
    formula: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    times: int = 1
    parameters: int = 0
    shared: bool = False
    multiply_adds: int = 0
    layers: int = 1


@dataclass(frozen=True)
class Shapes:
    """What a model did with one source and target; in a notebook it draws itself as a table.

    Attributes:
        title: which model.
        source_tokens: what it read.
        target_tokens: what its decoder read.
        steps: in the order in which they ran, layer by layer.
    """

    title: str
    source_tokens: list[str]
    target_tokens: list[str]
    steps: list[Step]

    @property
    def parameters(self) -> int:
        """Learnt numbers of the model, shared ones counted once."""
        return sum(step.parameters for step in self.steps)

    @property
    def multiply_adds(self) -> int:
        """Of all matrix products of the pass."""
        return sum(step.multiply_adds for step in self.steps)

    def folded(self) -> "Shapes":
        """The same with one line for layers that do the same, whose numbers are added up."""
        return replace(self, steps=list(_fold(self.steps)))

    def to_text(self) -> str:
        """A table for a terminal."""
        return shape_tables.to_text(self)

    def to_markdown(self) -> str:
        """A table as Markdown."""
        return shape_tables.to_markdown(self)

    def to_html(self) -> str:
        """A page that needs nothing beside itself."""
        return shape_tables.to_html(self)

    def to_data(self) -> dict[str, Any]:
        """Plain lists and dictionaries, for JSON."""
        totals = {"parameters": self.parameters, "multiply_adds": self.multiply_adds}
        return asdict(self) | totals

    def _repr_html_(self) -> str:
        return shape_tables.table(self.folded())


def shapes(
    model_or_run: "Translator | Run | str | Path", source: str, target: str | None = None, *, beam: int | None = None
) -> Shapes:
    """The analysis of a trained model with a sentence of one's own.

    Args:
        model_or_run: a translator, a run or its directory.
        source: the text to be read.
        target: what the decoder is led along; by default what the search finds.
        beam: in place of the run's; 1 is greedy search.

    Raises:
        UserError: if there is no such run, nothing to translate, or a text is too long for the model.
    """
    from qkv.inspection.attention_maps import as_translator, led_along

    translator = as_translator(model_or_run)
    source_ids, target_ids, _ = led_along(translator, source, target, beam=beam)
    tokenizers = translator.tokenizers
    inputs = [tokenizers.target.bos, *target_ids[:-1]]
    return shapes_of_model(
        translator.model,
        source_ids,
        inputs,
        title="Shapes: a trained model",
        source_tokens=tokenizers.source.pieces(source_ids),
        target_tokens=tokenizers.target.pieces(inputs),
    )


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
    from qkv.config.loading import model_options
    from qkv.config.schema import ModelConfig
    from qkv.errors import UserError
    from qkv.nn.architectures import ARCHITECTURES

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


# Folding


def _fold(steps: Iterable[Step]) -> Iterator[Step]:
    """Neighbouring layers whose steps differ in nothing but their number become one."""
    for stack, group in groupby(steps, key=_stack):
        if stack is None:
            yield from group
            continue
        layers = [list(layer) for _, layer in groupby(group, key=_number)]
        for _, alike in groupby(layers, key=_without_number):
            yield from _together(list(alike))


def _stack(step: Step) -> str | None:
    found = _LAYER.match(step.path)
    return None if found is None else found[1]


def _number(step: Step) -> int:
    found = _LAYER.match(step.path)
    assert found is not None, "only steps of a layer have a number"
    return int(found[2])


def _without_number(layer: Sequence[Step]) -> list[Step]:
    return [replace(step, path=_LAYER.sub(r"\1.\3", step.path)) for step in layer]


def _together(layers: Sequence[Sequence[Step]]) -> Iterator[Step]:
    first, last, count = _number(layers[0][0]), _number(layers[-1][0]), len(layers)
    for step in layers[0]:
        numbers = f"{first}–{last}" if count > 1 else str(first)
        yield replace(
            step,
            path=_LAYER.sub(rf"\g<1>.{numbers}\g<3>", step.path),
            parameters=step.parameters * count,
            multiply_adds=step.multiply_adds * count,
            layers=count,
        )
