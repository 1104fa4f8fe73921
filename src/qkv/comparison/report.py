"""The report: tables as Markdown; tables and charts as one HTML page that needs nothing beside itself."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qkv.comparison import tables
from qkv.comparison.results import Measurement, Results
from qkv.comparison.tables import counted
from qkv.measuring.environment import Environment
from qkv.pages.charts import line_chart
from qkv.pages.escaping import in_markdown
from qkv.pages.frame import render
from qkv.pages.style import Series


@dataclass(frozen=True)
class Comparison(Results):
    """Variants of one recipe side by side, to be looked at."""

    def to_markdown(self) -> str:
        """The tables."""
        parts = [f"# {in_markdown(self._title)}", *(table.to_markdown() for table in tables.all_tables(self))]
        parts.append("\n".join(f"- {in_markdown(note)}" for note in notes(self)))
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
            tables=tables.all_tables(self),
            charts=[Markup(chart) for chart in charts(self)],
            notes=notes(self),
        )

    @property
    def _title(self) -> str:
        return f"Comparison: {', '.join(self.vary)}"


def notes(comparison: Results) -> list[str]:
    """What one must know to make use of the numbers."""
    scores = {score.name: score for _, measured in comparison.measured for score in measured.scores}
    found = [f"{score.name}: signature {score.signature}" for score in scores.values() if score.signature]
    environments = list(dict.fromkeys(measured.environment for _, measured in comparison.measured))
    found += [f"Measured with {_spoken(environment)}." for environment in environments or [comparison.environment]]
    if len(environments) > 1:
        found.append("Variants were measured under different conditions, so their times cannot be compared.")
    found.append(f"Brought up to date {comparison.date}.")
    return found


def _spoken(environment: Environment) -> str:
    return (
        f"qkv {environment.qkv}, torch {environment.torch}, Python {environment.python} on {environment.hardware} "
        f"({environment.device}, {counted(environment.cores, 'core')}, {counted(environment.threads, 'thread')})"
    )


# Charts


def charts(comparison: Results) -> list[str]:
    """Learning curves, times against sequence length, quality against the length of the source; as SVG."""
    return [*_learning_charts(comparison), *_length_charts(comparison)]


def _learning_charts(comparison: Results) -> Iterable[str]:
    nats = "nats per target token"
    for title, points in (
        ("Training loss", lambda measured: [(p, p.nll) for p in measured.training]),
        ("Validation loss", lambda measured: [(p, p.loss) for p in measured.validation]),
    ):
        yield from _chart(comparison, f"{title} against time", "minutes", nats, _over(points, _minutes))
        yield from _chart(comparison, f"{title} against tokens", "million target tokens", nats, _over(points, _tokens))
    metrics = {measured.validation_metric for _, measured in comparison.measured} - {"loss"}
    if len(metrics) == 1:

        def metric(measured: Measurement) -> list[tuple[object, float]]:
            return [(p, p.metric) for p in measured.validation if p.metric is not None]

        (name,) = metrics
        yield from _chart(comparison, f"Validation {name} against time", "minutes", name, _over(metric, _minutes))


def _minutes(point: object) -> float:
    return float(point.seconds) / 60  # type: ignore[attr-defined]


def _tokens(point: object) -> float:
    return float(point.target_tokens) / 1e6  # type: ignore[attr-defined]


def _over(
    points: Callable[[Measurement], Sequence[tuple[object, float]]], x: Callable[[object], float]
) -> Callable[[Measurement], list[tuple[float, float]]]:
    return lambda measured: [(x(point), y) for point, y in points(measured)]


def _length_charts(comparison: Results) -> Iterable[str]:
    lengths = sorted({time.length for _, measured in comparison.measured for time in measured.times})
    yield from _chart(
        comparison,
        "Training step against sequence length",
        "tokens of source and target",
        "milliseconds",
        lambda measured: [(time.length, 1e3 * time.training_seconds) for time in measured.times],
        ticks=lengths,
    )
    yield from _chart(
        comparison,
        "Decoded token against sequence length",
        "tokens of source and target",
        "microseconds",
        lambda measured: [(time.length, 1e6 * time.decoding_seconds) for time in measured.times],
        ticks=lengths,
    )
    if comparison.measured:
        first = comparison.measured[0][1]
        yield from _chart(
            comparison,
            f"{first.scores[0].name} against length of source",
            f"{first.length_unit} of the source (middle of the range)",
            first.scores[0].name,
            lambda measured: [((bucket.low + bucket.high) / 2, bucket.value) for bucket in measured.by_length],
        )


def _chart(
    comparison: Results,
    title: str,
    x_label: str,
    y_label: str,
    points: Callable[[Measurement], Sequence[tuple[float, float]]],
    *,
    ticks: Sequence[int] | None = None,
) -> Iterable[str]:
    """One chart, or none if there are no points. `ticks` are those of logarithmic axes."""
    series = []
    for row, measured in comparison.measured:
        found = points(measured)
        if found:
            series.append(Series(row.label, [x for x, _ in found], [y for _, y in found]))
    if series:
        yield line_chart(
            series,
            title=title,
            x_label=x_label,
            y_label=y_label,
            x_ticks=None if ticks is None else [(tick, str(tick)) for tick in ticks],
            log_x=ticks is not None,
            log_y=ticks is not None,
        )
