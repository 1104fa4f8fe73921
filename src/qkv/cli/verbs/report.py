"""Write a run's report.html: curves, samples, scores, attention, configuration."""

from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import add_run, translator_of


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--text", metavar="TEXT", help="what the attention picture shows; a sample by default")
    parser.add_argument("--evaluate", action="store_true", help="translate the recipe's data.test and add its scores")
    parser.add_argument("--output", metavar="FILE", help="RUN/report.html by default")


def run(options: Namespace) -> None:
    from qkv.experiment.report import write_report
    from qkv.run.directory import Run

    run = Run.open(options.run)
    translator = translator_of(options)
    print(write_report(run, translator, text=options.text, evaluate=options.evaluate, output=options.output))
