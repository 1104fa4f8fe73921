"""Write a run's model for another program, and check that it computes the same there."""

from argparse import ArgumentParser, Namespace
from textwrap import indent

from qkv.cli.arguments import add_checkpoint
from qkv.interchange import EXPORTS


def add(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("target", help=f"the program: {', '.join(EXPORTS)}")
    parser.add_argument("--output", metavar="DIR", help="a new directory; RUN/exports/TARGET by default")
    add_checkpoint(parser)
    parser.add_argument("--quantization", metavar="NAME", help="how to store weights: int8, …; float32 by default")
    parser.add_argument("--overwrite", action="store_true", help="replace an older export of that name")


def run(options: Namespace) -> None:
    from qkv.interchange.export import export

    made = export(**vars(options))
    checked = made.agreement
    print(f"Wrote {made.path} from {made.checkpoint}.")
    print(
        f"Checked against the model itself on {checked.sources} made-up sources: {checked.tokens} log-probabilities "
        f"differ by at most {checked.largest:.2g} nats, {checked.same} of {checked.sources} greedy outputs are the same"
    )
    print(f"To use it:\n\n{indent(made.usage, '    ')}")
