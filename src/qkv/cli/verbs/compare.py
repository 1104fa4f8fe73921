"""Train variants of a recipe alike, measure them, and write a report."""

from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import add_beam, add_recipe, names
from qkv.errors import UserError


def add(parser: ArgumentParser) -> None:
    add_recipe(parser, changes="changes to the recipe, for all variants")
    vary = "a key of the recipe and its values; given again, every combination is trained"
    parser.add_argument("--vary", action="append", required=True, metavar="KEY=A,B", help=vary)
    parser.add_argument("--budget", metavar="TIME", help="of each training: 90s, 10m, 1h; as the recipe by default")
    parser.add_argument("--output", metavar="DIR", help="runs and report; runs/compare-RECIPE by default")
    parser.add_argument("--metrics", metavar="A,B", help="in place of the recipe's evaluation.metrics")
    add_beam(parser, "beam width; the recipe's by default")
    parser.add_argument("--quiet", action="store_true", help="show nothing while training")


def run(options: Namespace) -> None:
    from qkv.comparison.compare import compare
    from qkv.comparison.variants import read_vary
    from qkv.devices import keep_freed_memory

    keep_freed_memory()
    comparison = compare(
        options.recipe,
        read_vary(options.vary),
        budget=options.budget,
        output=options.output,
        overrides=options.overrides,
        metrics=names(options.metrics),
        beam=options.beam,
        progress=not options.quiet,
    )
    print(comparison.to_markdown())
    print(f"The report is {comparison.output}/compare.html")
    if not comparison.measured:
        raise UserError(f"no variant could be trained: {comparison.rows[0].failure}")
