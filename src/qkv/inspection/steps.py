"""What a shape analysis consists of: its steps, one line for layers that are alike, and the tables that show them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from qkv.pages.escaping import in_html, in_markdown
from qkv.pages.frame import page
from qkv.pages.tables import STYLE as TABLE_STYLE
from qkv.pages.tables import Table

_LAYER = re.compile(r"(?P<stack>.*?)\.(?P<number>\d+)(?:\.(?P<inside>.+))?$")  # encoder.layers . 0 . attention.output
_HEADER = ("step", "what happens", "formula", "shape", "parameters", "multiply–adds")
_LEGEND = (
    "Parameters are counted where they are used first. Multiply–adds are those of matrix products; what runs along "
    "with them (sums, norms, softmax) is not counted."
)


@dataclass(frozen=True)
class Step:
    """One line of the analysis.

    Attributes:
        path: the module that does it, as in `named_modules`; of layers that are alike, that of the first.
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

    @property
    def place(self) -> str:
        """Where it happens, as people say it: encoder layer 1, attention; encoder layers 1–4, where they are alike."""
        found = _LAYER.match(self.path)
        if found is None:
            return self.path or "(the model)"
        first = int(found["number"]) + 1
        numbers = f"layer {first}" if self.layers == 1 else f"layers {first}–{first + self.layers - 1}"
        inside = f", {found['inside']}" if found["inside"] else ""
        return f"{found['stack'].removesuffix('.layers').replace('.', ' ')} {numbers}{inside}"

    @property
    def size(self) -> str:
        """(batch 1, source 7, d_model 128); an axis without a name is its size alone."""
        named = zip(self.axes, self.shape, strict=True)
        axes = [name if name == str(size) else f"{name} {size}" for name, size in named]
        times = f" × {self.times}" if self.times > 1 else ""
        return f"({', '.join(axes)}){times}" if axes else ""


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

    def table(self) -> Table:
        """Step by step, with a total."""
        rows = []
        for step in self.steps:
            parameters = "shared" if step.shared else f"{step.parameters:,}" if step.parameters else ""
            multiply_adds = f"{step.multiply_adds:,}" if step.multiply_adds else ""
            rows.append([step.place, step.what, step.formula, step.size, parameters, multiply_adds])
        total = ["all", "", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"]
        return Table(_HEADER, rows, numbers=2, total=total)

    def to_text(self) -> str:
        """A table for a terminal."""
        return "\n".join([self.title, *self._sides(), "", self.table().to_text(), "", _LEGEND])

    def to_markdown(self) -> str:
        """A table as Markdown, with a heading."""
        sides = "\n".join(f"- {in_markdown(side)}" for side in self._sides())
        return f"# {in_markdown(self.title)}\n\n{sides}\n\n{self.table().to_markdown()}\n\n{_LEGEND}\n"

    def to_html(self) -> str:
        """A page that needs nothing beside itself."""
        return page(self.title, self._html())

    def to_data(self) -> dict[str, Any]:
        """Plain lists and dictionaries, for JSON."""
        steps = [asdict(step) | {"place": step.place, "size": step.size} for step in self.steps]
        totals = {"parameters": self.parameters, "multiply_adds": self.multiply_adds}
        return asdict(self) | {"steps": steps} | totals

    def _repr_html_(self) -> str:
        return f"<style>{TABLE_STYLE}</style>\n{self.folded()._html()}"

    def _html(self) -> str:
        sides = "<br>".join(map(in_html, self._sides()))
        return f"<p>{sides}</p>\n{self.table().__html__()}\n<p>{_LEGEND}</p>"

    def _sides(self) -> list[str]:
        sides = {"source": self.source_tokens, "target": self.target_tokens}
        return [f"{name}, {len(tokens)} tokens: {' '.join(tokens)}" for name, tokens in sides.items()]


def _fold(steps: Iterable[Step]) -> Iterator[Step]:
    """Neighbouring layers whose steps differ in nothing but their number become one."""
    for stack, group in groupby(steps, key=lambda step: _part(step, "stack")):
        if stack is None:
            yield from group
            continue
        layers = [list(layer) for _, layer in groupby(group, key=lambda step: _part(step, "number"))]
        for _, alike in groupby(layers, key=_without_number):
            first, *others = alike
            count = 1 + len(others)
            for step in first:
                yield replace(
                    step, parameters=step.parameters * count, multiply_adds=step.multiply_adds * count, layers=count
                )


def _part(step: Step, name: str) -> str | None:
    found = _LAYER.match(step.path)
    return None if found is None else found[name]


def _without_number(layer: Sequence[Step]) -> list[Step]:
    return [replace(step, path=_LAYER.sub(r"\g<stack>..\g<inside>", step.path)) for step in layer]
