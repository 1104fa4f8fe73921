"""report.html: one self-contained page with all that a run has to show, the page to send a colleague."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from qkv.config.schema import Config
from qkv.errors import UserError
from qkv.evaluation.by_length import length_unit, quality_by_length
from qkv.evaluation.evaluate import Evaluation, evaluate
from qkv.files import write_text
from qkv.inspection.attention_maps import attention_maps
from qkv.loading import load
from qkv.measuring.environment import Environment, now
from qkv.pages import plots
from qkv.pages.charts import line_chart
from qkv.pages.frame import render
from qkv.pages.style import Series
from qkv.pages.tables import Table
from qkv.run.checkpoint import read_description
from qkv.run.description import books
from qkv.run.directory import Run
from qkv.run.preparation import pair_files
from qkv.text.corpus import read_pairs
from qkv.translator import Translator

_MOST_SAMPLES = 5
_MOST_OUTPUTS = 10
_KINDS = {"cross": "from target to source", "encoder": "within the source", "decoder": "within the target"}

Rows = list[tuple[str, str]]


def write_report(
    run: Run,
    translator: Translator | None = None,
    *,
    text: str | None = None,
    evaluate: bool = False,
    output: str | Path | None = None,
) -> Path:
    """Write a run's report, whole or not at all, and return where it is.

    Args:
        run: with at least one checkpoint.
        translator: made from the run; by default its best checkpoint.
        text: what the attention picture shows; by default a sample, or the first validation source.
        evaluate: whether to translate the recipe's test pairs and add the scores, which takes its time.
        output: report.html in the run by default.

    Raises:
        UserError: if the run has no checkpoint, data that is asked for cannot be read, or the file not be written.
    """
    path = run.report_path if output is None else Path(output)
    engine = None if evaluate else "torch"  # for a picture or two no engine is worth being made ready
    translator = translator or load(run.path, device=run.config.device, engine=engine)
    write_text(path, to_html(run, translator, text, evaluate=evaluate))
    return path


def to_html(run: Run, translator: Translator, text: str | None = None, *, evaluate: bool = False) -> str:
    """The page; see `write_report`."""
    from markupsafe import Markup

    config, metrics = run.config, run.metrics()
    evaluation = _evaluated(translator, config) if evaluate else None
    return render(
        "qkv.experiment/report.html.jinja",
        title=f"Run {run.path.resolve().name}",
        summary=_summary(run, translator, metrics),
        scores=_scores(config, metrics, evaluation),
        charts=[Markup(chart) for chart in (*_curves(metrics), *_quality(config, evaluation))],
        samples=_samples(metrics),
        picture=_picture(translator, text or _some_source(config, metrics)),
        environment=[
            ("software and hardware", str(Environment.here(str(translator.device)))),
            ("report written", f"{now()}, in this environment"),
        ],
        configuration=config.to_yaml(),
    )


# What stands in words


def _summary(run: Run, translator: Translator, metrics: Sequence[Mapping[str, Any]]) -> Rows:
    model = translator.model
    state = read_description(run.find_checkpoint("last"))["training"]
    rows = [
        ("model", f"{run.config.model.architecture}, {sum(p.numel() for p in model.parameters()):,} parameters"),
        ("trained", f"{state['step']:,} steps, {state['target_tokens']:,} target tokens"),
        ("time", f"{state['seconds'] / 60:.1f} minutes, validations included"),
    ]
    speeds = sorted(record["tokens_per_second"] for record in metrics if record["event"] == "train")
    if speeds:
        rows.append(("speed", f"{speeds[len(speeds) // 2]:,.0f} target tokens a second (median)"))
    return [*rows, *books(run), ("checkpoint in use", run.find_checkpoint().name)]


def _scores(config: Config, metrics: Sequence[Mapping[str, Any]], evaluation: Evaluation | None) -> Rows:
    rows: Rows = []
    validations = [record for record in metrics if record["event"] == "validation"]
    metric = plots.validation_metric(validations)
    if validations:
        last = validations[-1]
        shown = {"loss": 3, "perplexity": 2} | ({} if metric is None else {metric: 2})
        text = ", ".join(f"{name} {_spoken(last.get(name), digits)}" for name, digits in shown.items())
        rows.append(("last validation", text))
    if evaluation is not None:
        # A score spells its signature.
        rows += [(f"test, {len(evaluation.pairs):,} pairs", str(score)) for score in evaluation.scores.values()]
        rows += [("note", remark) for remark in evaluation.remarks]
    elif config.data.test is not None:
        rows.append(("test", "not measured for this report; `qkv report --evaluate` adds it"))
    return rows or [("none", "the recipe has neither validation nor test pairs")]


def _spoken(value: float | None, digits: int) -> str:
    return "not a number" if value is None else f"{value:.{digits}f}"


def _evaluated(translator: Translator, config: Config) -> Evaluation:
    if config.data.test is None:
        raise UserError(f"{config.run}: its recipe has no data.test to evaluate on")
    wanted = config.evaluation
    return evaluate(translator, pair_files(config, "test"), wanted.metrics, bleu_tokenize=wanted.bleu_tokenize)


def _samples(metrics: Sequence[Mapping[str, Any]]) -> list[Table]:
    """What the model made of validation sources, in the order in which they appeared: at some of the steps."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for record in metrics:
        for sample in record.get("samples", []):
            outputs = found.setdefault((sample["source"], sample["reference"]), [])
            outputs.append((f"{record['step']:,}", sample["output"]))
    return [
        Table(["step", "output"], _some(outputs), f"Source: {source}\nReference: {reference}")
        for (source, reference), outputs in islice(found.items(), _MOST_SAMPLES)
    ]


def _some(outputs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    last = len(outputs) - 1
    count = min(len(outputs), _MOST_OUTPUTS)
    return [outputs[round(i * last / max(1, count - 1))] for i in range(count)]


# What is drawn


def _curves(metrics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    training = [record for record in metrics if record["event"] == "train"]
    validation = [record for record in metrics if record["event"] == "validation"]
    loss = [("training", training, "nll"), ("validation", validation, "loss")]
    yield from _chart("Loss", "nats per target token", loss)
    metric = plots.validation_metric(validation)
    if metric is not None:
        yield from _chart(f"Validation {metric}", metric, [(metric, validation, metric)])
    yield from _chart("Learning rate", "learning rate", [("learning rate", training, "learning_rate")])
    yield from _chart("Speed", "target tokens a second", [("training", training, "tokens_per_second")])


def _chart(title: str, y_label: str, lines: Sequence[tuple[str, Sequence[Mapping[str, Any]], str]]) -> Iterator[str]:
    """One chart over the steps, or none if nothing was reported."""
    series = [plots.curve(label, records, name) for label, records, name in lines]
    if shown := [line for line in series if line.x]:
        yield line_chart(shown, title=title, x_label="step", y_label=y_label)


def _quality(config: Config, evaluation: Evaluation | None) -> Iterator[str]:
    if evaluation is None or not evaluation.pairs:
        return
    unit, metric = length_unit([pair.source for pair in evaluation.pairs]), config.evaluation.metrics[0]
    outputs = dict(zip((pair.source for pair in evaluation.pairs), evaluation.outputs, strict=True))
    buckets = quality_by_length(evaluation.pairs, outputs, metric, unit, evaluation.settings)
    yield line_chart(
        [Series(metric, [(b.low + b.high) / 2 for b in buckets], [b.value for b in buckets])],
        title=f"{metric} by length",
        x_label=f"{unit} of the source (middle of the range)",
        y_label=metric,
        description="; ".join(f"{b.low} to {b.high} {unit}: {b.value:.2f} ({b.pairs} pairs)" for b in buckets),
    )


def _some_source(config: Config, metrics: Sequence[Mapping[str, Any]]) -> str | None:
    for record in reversed(metrics):
        for sample in record.get("samples", []):
            if sample["source"].strip():
                return str(sample["source"])
    if config.data.validation is None:
        return None
    sources = (pair.source for pair in read_pairs(pair_files(config, "validation")))
    return next((source for source in sources if source.strip()), None)


def _picture(translator: Translator, source: str | None) -> dict[str, str] | None:
    """All heads of one kind, as a data URI and in words; None if there is no attention, or nothing to read."""
    if source is None:
        return None
    inspection = attention_maps(translator, source)
    kind = next((kind for kind in _KINDS if kind in inspection.attention), None)
    if kind is None:
        return None
    rows, columns = inspection.axes(kind)
    figure = plots.head_grid(inspection.attention[kind], rows, columns, title=inspection.translation)
    drawing = base64.b64encode(plots.drawn(figure, "svg")).decode("ascii")
    description = f"Attention {_KINDS[kind]}, every layer and head, for: {source} → {inspection.translation}"
    return {"address": f"data:image/svg+xml;base64,{drawing}", "description": description}
