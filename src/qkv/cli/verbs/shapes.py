"""Walk one forward pass: every step with its shape, parameters and cost."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_run, positive, translator_of
from qkv.cli.streams import put
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.inspection.steps import Shapes


def add(parser: ArgumentParser) -> None:
    add_run(parser, "a run directory, or an architecture: transformer, gru-attention, …")
    parser.add_argument("text", nargs="?", help="a source; of an architecture, words that stand for tokens")
    parser.add_argument("--target", metavar="TEXT", help="what to lead the model along; by default its own translation")
    parser.add_argument("--preset", metavar="NAME", help="of an architecture: tiny, small, base, …")
    parser.add_argument("--option", action="append", metavar="KEY=VALUE", help="of an architecture: num_heads=8")
    parser.add_argument("--vocab-size", type=positive, metavar="N", help="of an architecture (default: 8000)")
    parser.add_argument("--all", action="store_true", help="a line for each layer, also of layers that are alike")
    parser.add_argument("--output", metavar="FILE", help="a .html, .md, .json or .txt file; standard output by default")


def run(options: Namespace) -> None:
    found = _analysis(options)
    shown = found if options.all else found.folded()
    tables = {
        ".txt": shown.to_text,
        ".md": shown.to_markdown,
        ".html": shown.to_html,
        ".htm": shown.to_html,
        ".json": lambda: json.dumps(shown.to_data(), ensure_ascii=False, indent=1),
    }
    suffix = ".txt" if options.output is None else Path(options.output).suffix.lower()
    if suffix not in tables:
        raise UserError(f"{options.output}: a table's name ends in .html, .md, .json or .txt")
    put([tables[suffix]()], options.output)


def _analysis(options: Namespace) -> "Shapes":
    from qkv.config.recipe import read_value
    from qkv.inspection.shapes import shapes, shapes_of_preset
    from qkv.nn.architectures import ARCHITECTURES
    from qkv.run.directory import Run

    if options.run in ARCHITECTURES and not Path(options.run).is_dir():
        chosen = {}
        for said in options.option or []:
            name, equals, value = said.partition("=")
            if not name or not equals:
                raise UserError(f"{said!r}: an option is written KEY=VALUE, like num_heads=8")
            chosen[name] = read_value(value)
        rest = {name: getattr(options, name) for name in ("vocab_size", "text") if getattr(options, name) is not None}
        return shapes_of_preset(options.run, options.preset, chosen, **rest)
    Run.open(options.run)
    for name in ("preset", "option", "vocab_size"):
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} goes with an architecture; {options.run} is a run, which has its own"
            )
    if options.text is None:
        raise UserError(f'say what {options.run} is to read: qkv shapes {options.run} "A man sleeps."')
    return shapes(translator_of(options), options.text, options.target)
