"""`qkv shapes`: one forward pass, step by step."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from qkv.cli.arguments import add_run, positive, translator_of
from qkv.cli.streams import put
from qkv.cli.verb import Verb
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.inspection.steps import Shapes


def _add(parser: ArgumentParser) -> None:
    add_run(parser, "a run directory, or an architecture: transformer, gru-attention, …")
    parser.add_argument("text", nargs="?", help="a source; of an architecture, words that stand for tokens")
    parser.add_argument("--target", metavar="TEXT", help="what to lead the model along; by default its own translation")
    parser.add_argument("--preset", metavar="NAME", help="of an architecture: tiny, small, base, …")
    parser.add_argument("--option", action="append", metavar="KEY=VALUE", help="of an architecture: num_heads=8")
    parser.add_argument("--vocab-size", type=positive, metavar="N", help="of an architecture (default: 8000)")
    parser.add_argument("--all", action="store_true", help="a line for each layer, also of layers that are alike")
    parser.add_argument("--output", metavar="FILE", help="a .html, .md, .json or .txt file; standard output by default")


def _run(options: Namespace) -> None:
    found = _analysis(options)
    shown = found if options.all else found.folded()
    put([shown.to_text() if options.output is None else _as_file(shown, options.output)], options.output)


def _analysis(options: Namespace) -> "Shapes":
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


VERB = Verb("walk one forward pass: every step with its shape, parameters and cost", _add, _run)
