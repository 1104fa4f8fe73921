"""Train a model as a recipe says."""

from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import add_recipe


def add(parser: ArgumentParser) -> None:
    recipe = "a YAML recipe (recipes/reference.yaml documents every key), or a run to resume"
    add_recipe(parser, recipe, "changes to the recipe: training.budget=15m")
    parser.add_argument("--resume", action="store_true", help="go on with the run from its newest checkpoint")
    parser.add_argument("--quiet", action="store_true", help="show nothing while training")


def run(options: Namespace) -> None:
    from qkv.devices import keep_freed_memory
    from qkv.experiment.experiment import resume, train

    keep_freed_memory()
    start = resume if options.resume else train
    start(options.recipe, options.overrides, progress=not options.quiet)
