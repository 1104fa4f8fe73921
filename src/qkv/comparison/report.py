"""The report: tables as Markdown; tables and charts as one HTML page that needs nothing beside itself."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qkv.comparison.results import Measurement, Row
from qkv.files import to_json
from qkv.measuring.environment import Environment, counted
from qkv.measuring.speed import BATCH_TOKENS, DECODED_ROWS, LengthTime
from qkv.pages.charts import line_chart
from qkv.pages.escaping import in_markdown
from qkv.pages.frame import render
from qkv.pages.style import Series
from qkv.pages.tables import Table

_NOTHING = "–"


@dataclass(frozen=True)
class Comparison:
    """Variants of one recipe, side by side.

    Attributes:
        recipe: the file's name, or what stands in for it.
        output: the directory that everything lies in.
        command: which makes, or goes on with, this comparison; None if it was not made from a file.
        date: when it was last brought up to date.
        environment: where that was.
        vary: the keys that are varied, with their values.
        rows: the variants that have been looked at so far.
        config: what all of them share, every default spelled out.
    """

    recipe: str
    output: str
    command: str | None
    date: str
    environment: Environment
    vary: dict[str, list[str]]
    rows: list[Row]
    config: Mapping[str, Any]

    @property
    def measured(self) -> list[tuple[Row, Measurement]]:
        """The variants that did not fail."""
        return [(row, row.measurement) for row in self.rows if row.measurement is not None]

    def to_json(self) -> str:
        """Everything, for machines."""
        return to_json(dataclasses.asdict(self), indent=1) + "\n"

    def to_markdown(self) -> str:
        """The tables."""
        parts = [f"# {in_markdown(self._title)}", *(table.to_markdown() for table in _tables(self))]
        parts.append("\n".join(f"- {in_markdown(note)}" for note in _notes(self)))
        if self.command:
            parts.append("\n".join(f"    {line}" for line in self.command.splitlines()))
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One page with tables and charts that needs nothing beside itself."""
        from markupsafe import Markup

        return render(
            "qkv.comparison/compare.html.jinja",
            title=self._title,
            comparison=self,
            tables=_tables(self),
            charts=[Markup(chart) for chart in charts(self)],
            notes=_notes(self),
        )

    @property
    def _title(self) -> str:
        return f"Comparison: {', '.join(self.vary)}"


def _notes(comparison: Comparison) -> list[str]:
    """What one must know to make use of the numbers."""
    scores = {score.name: score for _, measured in comparison.measured for score in measured.scores}
    found = [f"{score.name}: signature {score.signature}" for score in scores.values() if score.signature]
    environments = list(dict.fromkeys(measured.environment for _, measured in comparison.measured))
    found += [f"Measured with {environment}." for environment in environments or [comparison.environment]]
    if len(environments) > 1:
        found.append("Variants were measured under different conditions, so their times cannot be compared.")
    return [*found, f"Brought up to date {comparison.date}."]


# Tables


def _tables(comparison: Comparison) -> list[Table]:
    """Those that there is something to put into."""
    if not comparison.measured:
        return [_overview(comparison)]
    return [
        _overview(comparison),
        _quality(comparison),
        _times(
            comparison,
            f"Milliseconds for a step of training over {BATCH_TOKENS:,} made-up target tokens, by the length of their "
            "sequences in tokens (source and target alike).",
            lambda time: f"{1e3 * time.training_seconds:,.1f}",
        ),
        _times(
            comparison,
            f"Microseconds per decoded token, {DECODED_ROWS} sequences side by side, greedily, by torch in float32, by "
            "the length of source and target in tokens (the encoder's time is not in it).",
            lambda time: f"{1e6 * time.decoding_seconds:,.1f}",
        ),
        _examples(comparison),
    ]


def _overview(comparison: Comparison) -> Table:
    """One row per variant: size, training, scores, decoding speed; or why there are none."""
    metrics = list(dict.fromkeys(score.name for _, measured in comparison.measured for score in measured.scores))
    header = ["variant", "parameters", *metrics, "training tokens/s", "target tokens", "steps", "minutes"]
    header += ["sentences/s decoded", "tokens/s decoded"]
    rows = []
    for row in comparison.rows:
        if row.measurement is None:
            rows.append([row.label, f"failed: {row.failure}", *[_NOTHING] * (len(header) - 2)])
        else:
            rows.append([row.label, *_overview_cells(row.measurement, metrics)])
    return _numbers(f"Variants of {comparison.recipe}. {_conditions(comparison)}", header, rows)


def _overview_cells(measured: Measurement, metrics: Sequence[str]) -> list[str]:
    values = {score.name: f"{score.value:.2f}" for score in measured.scores}
    speed = measured.tokens_per_second
    return [
        f"{measured.parameters:,}",
        *(values.get(metric, _NOTHING) for metric in metrics),
        _NOTHING if speed is None else f"{speed:,.0f}",
        f"{measured.target_tokens:,}",
        f"{measured.steps:,}",
        f"{measured.minutes:.1f}",
        f"{measured.decoding.sentences_per_second:,.1f}",
        f"{measured.decoding.tokens_per_second:,.0f}",
    ]


def _conditions(comparison: Comparison) -> str:
    """On what, and how, the numbers of the overview were found."""
    if not comparison.measured:
        return "None could be trained."
    first = comparison.measured[0][1]
    engines = {row.label: measured.decoding.engine for row, measured in comparison.measured}
    by = next(iter(engines.values()))
    if len(set(engines.values())) > 1:
        by = ", ".join(f"{engine} ({label})" for label, engine in engines.items())
    return (
        f"Scores are of {first.pairs:,} {first.pairs_name} pairs, beam {first.beam}; training tokens/s are target "
        "tokens, the median of the reports of training; minutes include validation; decoding speed is that of "
        f"{first.decoding.sources:,} sources with beam {first.decoding.beam}, in batches, by {by}, with "
        f"{counted(first.environment.threads, 'thread')} on {first.environment.device}."
    )


def _quality(comparison: Comparison) -> Table:
    """The first metric against the length of the source."""
    first = comparison.measured[0][1]
    buckets = sorted({(b.low, b.high) for _, measured in comparison.measured for b in measured.by_length})
    pairs = {(b.low, b.high): b.pairs for _, measured in comparison.measured for b in measured.by_length}
    header = ["variant", *(f"{low}–{high} ({pairs[low, high]:,} pairs)" for low, high in buckets)]
    rows = []
    for row, measured in comparison.measured:
        values = {(bucket.low, bucket.high): f"{bucket.value:.2f}" for bucket in measured.by_length}
        rows.append([row.label, *(values.get(bucket, _NOTHING) for bucket in buckets)])
    score = first.scores[0]
    better = "higher" if score.higher_is_better else "lower"
    caption = f"{score.name} ({better} is better) by the length of the source in {first.length_unit}."
    return _numbers(caption, header, rows)


def _numbers(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(header, rows, caption, numbers=len(header) - 1)


def _times(comparison: Comparison, caption: str, cell: Callable[[LengthTime], str]) -> Table:
    lengths = sorted({time.length for _, measured in comparison.measured for time in measured.times})
    rows = []
    for row, measured in comparison.measured:
        cells = {time.length: cell(time) for time in measured.times}
        rows.append([row.label, *(cells.get(length, _NOTHING) for length in lengths)])
    return _numbers(caption, ["variant", *map(str, lengths)], rows)


def _examples(comparison: Comparison) -> Table:
    """A few outputs side by side."""
    first = comparison.measured[0][1]
    shown = dict.fromkeys((e.source, e.reference) for _, measured in comparison.measured for e in measured.examples)
    outputs = [{e.source: e.output for e in measured.examples} for _, measured in comparison.measured]
    rows = [[source, reference, *(own.get(source, _NOTHING) for own in outputs)] for source, reference in shown]
    caption = (
        f"Outputs for {first.pairs_name} pairs, one drawn at random from each fifth of the lengths, the same for all "
        "variants."
    )
    return Table(["source", "reference", *(row.label for row, _ in comparison.measured)], rows, caption)


# Charts


def charts(comparison: Comparison) -> list[str]:
    """Learning curves, times against sequence length, quality against the length of the source; as SVG."""
    measured = [measurement for _, measurement in comparison.measured]
    if not measured:
        return []
    metrics = {one.validation_metric for one in measured} - {"loss"}
    metric = metrics.pop() if len(metrics) == 1 else ""
    score, unit = measured[0].scores[0].name, measured[0].length_unit
    ticks = [(length, str(length)) for length in sorted({time.length for one in measured for time in one.times})]
    tokens, nats, lengths = "million target tokens", "nats per target token", "tokens of source and target"
    found: list[tuple[str, str, str, Callable[[Measurement], list[tuple[float, float]]]]] = [
        ("Training loss against time", "minutes", nats, lambda m: [(p.seconds / 60, p.nll) for p in m.training]),
        ("Training loss against tokens", tokens, nats, lambda m: [(p.target_tokens / 1e6, p.nll) for p in m.training]),
        ("Validation loss against time", "minutes", nats, lambda m: [(p.seconds / 60, p.loss) for p in m.validation]),
        (
            "Validation loss against tokens",
            tokens,
            nats,
            lambda m: [(p.target_tokens / 1e6, p.loss) for p in m.validation],
        ),
        (
            f"Validation {metric} against time",
            "minutes",
            metric,
            lambda m: [(p.seconds / 60, p.metric) for p in m.validation if metric and p.metric is not None],
        ),
        (
            "Training step against sequence length",
            lengths,
            "milliseconds",
            lambda m: [(t.length, 1e3 * t.training_seconds) for t in m.times],
        ),
        (
            "Decoded token against sequence length",
            lengths,
            "microseconds",
            lambda m: [(t.length, 1e6 * t.decoding_seconds) for t in m.times],
        ),
        (
            f"{score} against length of source",
            f"{unit} of the source (middle of the range)",
            score,
            lambda m: [((bucket.low + bucket.high) / 2, bucket.value) for bucket in m.by_length],
        ),
    ]
    drawn = []
    for title, x_label, y_label, points in found:
        lines = [(row.label, points(one)) for row, one in comparison.measured]
        series = [Series(label, [x for x, _ in line], [y for _, y in line]) for label, line in lines if line]
        axes: dict[str, Any] = {"x_ticks": ticks, "log_x": True, "log_y": True} if x_label == lengths else {}
        if series:
            drawn.append(line_chart(series, title=title, x_label=x_label, y_label=y_label, **axes))
    return drawn
