"""The verbs that write down what a model is: the shapes of a pass, and the report of a run."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qkv.cli.shared import add_run, positive, translator_of, write_file
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.inspection.steps import Shapes

Verb = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def add_verbs(verb: Verb) -> None:
    """Add the verbs to the grammar; `verb` takes a name, its function and a summary."""
    added = verb("shapes", _shapes, "walk one forward pass: every step with its shape, parameters and cost")
    add_run(added, "a run directory, or an architecture: transformer, gru-attention, …")
    added.add_argument("text", nargs="?", help="a source; of an architecture, words that stand for tokens")
    added.add_argument("--target", metavar="TEXT", help="what to lead the model along; by default its own translation")
    added.add_argument("--preset", metavar="NAME", help="of an architecture: tiny, small, base, …")
    added.add_argument("--option", action="append", metavar="KEY=VALUE", help="of an architecture: num_heads=8")
    added.add_argument("--vocab-size", type=positive, metavar="N", help="of an architecture (default: 8000)")
    added.add_argument("--all", action="store_true", help="a line for each layer, also of layers that are alike")
    added.add_argument("--output", metavar="FILE", help="a .html, .md, .json or .txt file; standard output by default")

    added = verb("report", _report, "write a run's report.html: curves, samples, scores, attention, configuration")
    add_run(added)
    added.add_argument("--text", metavar="TEXT", help="what the attention picture shows; a sample by default")
    added.add_argument("--evaluate", action="store_true", help="translate the recipe's data.test and add its scores")
    added.add_argument("--output", metavar="FILE", help="RUN/report.html by default")


def _shapes(options: argparse.Namespace) -> None:
    found = _analysis(options)
    shown = found if options.all else found.folded()
    if options.output is None:
        print(shown.to_text())
    else:
        write_file(options.output, [_as_file(shown, options.output)])


def _analysis(options: argparse.Namespace) -> "Shapes":
    from pathlib import Path

    from qkv.inspection.shapes import shapes, shapes_of_preset
    from qkv.nn.architectures import ARCHITECTURES
    from qkv.run.directory import Run

    own = {"--preset": options.preset, "--option": options.option, "--vocab-size": options.vocab_size}
    if options.run in ARCHITECTURES and not Path(options.run).is_dir():
        return shapes_of_preset(
            options.run,
            options.preset,
            dict(map(_option, options.option or [])),
            **({} if options.vocab_size is None else {"vocab_size": options.vocab_size}),
            **({} if options.text is None else {"text": options.text}),
        )
    Run.open(options.run)
    for name, value in own.items():
        if value is not None:
            raise UserError(f"{name} goes with an architecture; {options.run} is a run, which has its own")
    if options.text is None:
        raise UserError(f'say what {options.run} is to read: qkv shapes {options.run} "A man sleeps."')
    return shapes(translator_of(options), options.text, options.target)


def _option(text: str) -> tuple[str, Any]:
    from qkv.config.recipe import read_value

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"{text!r}: an option is written KEY=VALUE, like num_heads=8")
    return name, read_value(value)


def _as_file(shapes: "Shapes", path: str) -> str:
    import json
    from pathlib import Path

    suffix = Path(path).suffix.lower()
    if suffix in (".html", ".htm"):
        return shapes.to_html()
    if suffix == ".md":
        return shapes.to_markdown()
    if suffix == ".json":
        return json.dumps(shapes.to_data(), ensure_ascii=False, indent=1)
    if suffix == ".txt":
        return shapes.to_text()
    raise UserError(f"{path}: a table's name ends in .html, .md, .json or .txt")


def _report(options: argparse.Namespace) -> None:
    from qkv.experiment.report import write_report
    from qkv.run.directory import Run

    run = Run.open(options.run)
    translator = translator_of(options)
    print(write_report(run, translator, text=options.text, evaluate=options.evaluate, output=options.output))
