"""A comparison's tables, as text in cells: the same for Markdown and for the page."""

from collections.abc import Callable, Sequence

from qkv.comparison.results import Measurement, Results
from qkv.measuring.speed import BATCH_TOKENS, DECODED_ROWS, LengthTime
from qkv.pages.tables import Table

NOTHING = "–"


def all_tables(comparison: Results) -> list[Table]:
    """The tables that there is something to put into."""
    tables = [overview(comparison)]
    if comparison.measured:
        tables += [quality(comparison), training_times(comparison), decoding_times(comparison), examples(comparison)]
    return tables


def overview(comparison: Results) -> Table:
    """One row per variant: size, training, scores, decoding speed; or why there are none."""
    metrics = _metrics(comparison)
    header = ["variant", "parameters", *metrics, "training tokens/s", "target tokens", "steps", "minutes"]
    header += ["sentences/s decoded", "tokens/s decoded"]
    rows = []
    for row in comparison.rows:
        if row.measurement is None:
            rows.append([row.label, f"failed: {row.failure}", *[NOTHING] * (len(header) - 2)])
        else:
            rows.append([row.label, *_overview_cells(row.measurement, metrics)])
    return _numbers(f"Variants of {comparison.recipe}. {_conditions(comparison)}", header, rows)


def quality(comparison: Results) -> Table:
    """The first metric against the length of the source."""
    first = comparison.measured[0][1]
    buckets = sorted({(b.low, b.high) for _, measured in comparison.measured for b in measured.by_length})
    pairs = {(b.low, b.high): b.pairs for _, measured in comparison.measured for b in measured.by_length}
    header = ["variant", *(f"{low}–{high} ({pairs[low, high]:,} pairs)" for low, high in buckets)]
    rows = []
    for row, measured in comparison.measured:
        values = {(bucket.low, bucket.high): f"{bucket.value:.2f}" for bucket in measured.by_length}
        rows.append([row.label, *(values.get(bucket, NOTHING) for bucket in buckets)])
    score = first.scores[0]
    better = "higher" if score.higher_is_better else "lower"
    caption = f"{score.name} ({better} is better) by the length of the source in {first.length_unit}."
    return _numbers(caption, header, rows)


def training_times(comparison: Results) -> Table:
    """Milliseconds of a training step against sequence length."""
    caption = (
        f"Milliseconds for a step of training over {BATCH_TOKENS:,} made-up target tokens, by the length of their "
        "sequences in tokens (source and target alike)."
    )
    return _times(comparison, caption, lambda time: f"{1e3 * time.training_seconds:,.1f}")


def decoding_times(comparison: Results) -> Table:
    """Microseconds per decoded token against sequence length."""
    caption = (
        f"Microseconds per decoded token, {DECODED_ROWS} sequences side by side, greedily, by torch in float32, by the "
        "length of source and target in tokens (the encoder's time is not in it)."
    )
    return _times(comparison, caption, lambda time: f"{1e6 * time.decoding_seconds:,.1f}")


def examples(comparison: Results) -> Table:
    """A few outputs side by side."""
    first = comparison.measured[0][1]
    shown = dict.fromkeys((e.source, e.reference) for _, measured in comparison.measured for e in measured.examples)
    outputs = [{e.source: e.output for e in measured.examples} for _, measured in comparison.measured]
    rows = [[source, reference, *(own.get(source, NOTHING) for own in outputs)] for source, reference in list(shown)]
    caption = (
        f"Outputs for {first.pairs_name} pairs, one drawn at random from each fifth of the lengths, the same for all "
        "variants."
    )
    return Table(["source", "reference", *(row.label for row, _ in comparison.measured)], rows, caption)


def counted(number: int, noun: str) -> str:
    """1 thread, 2 threads."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _numbers(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(header, rows, caption, numbers=len(header) - 1)


def _times(comparison: Results, caption: str, cell: Callable[[LengthTime], str]) -> Table:
    lengths = sorted({time.length for _, measured in comparison.measured for time in measured.times})
    rows = []
    for row, measured in comparison.measured:
        cells = {time.length: cell(time) for time in measured.times}
        rows.append([row.label, *(cells.get(length, NOTHING) for length in lengths)])
    return _numbers(caption, ["variant", *map(str, lengths)], rows)


def _metrics(comparison: Results) -> list[str]:
    return list(dict.fromkeys(score.name for _, measured in comparison.measured for score in measured.scores))


def _overview_cells(measured: Measurement, metrics: Sequence[str]) -> list[str]:
    values = {score.name: f"{score.value:.2f}" for score in measured.scores}
    speed = measured.tokens_per_second
    return [
        f"{measured.parameters:,}",
        *(values.get(metric, NOTHING) for metric in metrics),
        NOTHING if speed is None else f"{speed:,.0f}",
        f"{measured.target_tokens:,}",
        f"{measured.steps:,}",
        f"{measured.minutes:.1f}",
        f"{measured.decoding.sentences_per_second:,.1f}",
        f"{measured.decoding.tokens_per_second:,.0f}",
    ]


def _conditions(comparison: Results) -> str:
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
