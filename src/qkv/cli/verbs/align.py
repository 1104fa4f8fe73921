"""Link the words of pairs by cross-attention, in Pharaoh format."""

import sys
from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import add_head, add_pairs, add_run, files_or_test, translator_of
from qkv.cli.streams import complain, put
from qkv.errors import UserError


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    add_pairs(parser)
    parser.add_argument("--gold", metavar="FILE", help="right alignments in Pharaoh format, to choose the best head by")
    add_head(parser, "the best is chosen by default", "goes with --layer")
    parser.add_argument("--shifted", action="store_true", help="with --head: a token's weights when it is read")
    parser.add_argument("--output", metavar="FILE", help="standard output by default")


def run(options: Namespace) -> None:
    from qkv.inspection.alignment import AlignmentHead, align, read_pharaoh, to_pharaoh
    from qkv.text.corpus import read_lines, read_pairs

    files, head = files_or_test(options), None
    if (options.layer is None) != (options.head is None):
        raise UserError("--layer and --head go together")
    if options.layer is not None:
        if options.gold is not None:
            raise UserError("--gold chooses a head, so it does not go with --layer and --head")
        head = AlignmentHead(options.layer, options.head, options.shifted)
    elif options.shifted:
        raise UserError("--shifted goes with --layer and --head; where the best head is chosen, both are tried")
    gold = None if options.gold is None else read_pharaoh(read_lines(options.gold))
    found = align(translator_of(options), list(read_pairs(files, complain)), head=head, gold=gold)
    if head is None:
        print(f"{found.head}: {found.chosen_by}", file=sys.stderr)
    put(map(to_pharaoh, found.links), options.output)
