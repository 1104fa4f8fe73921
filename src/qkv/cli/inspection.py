"""The verbs that look inside a model."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from qkv.cli.shared import (
    add_pairs,
    add_run,
    files_of_pairs,
    one_line,
    positive,
    print_lines,
    translator_of,
    write_file,
)
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.inspection.alignment import AlignmentHead
    from qkv.inspection.attention_maps import Inspection

Verb = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def add_verbs(verb: Verb) -> None:
    """Add the verbs to the grammar; `verb` takes a name, its function and a summary."""
    added = verb("attention", _attention, "show where a model looks, for every layer and head")
    add_run(added)
    added.add_argument("text", help="a source")
    added.add_argument("--target", metavar="TEXT", help="what to lead the model along; by default its own translation")
    added.add_argument("--kind", metavar="KIND", help="encoder, decoder or cross; all that there are by default")
    added.add_argument("--layer", type=positive, metavar="N", help="counted from 1; all by default")
    added.add_argument("--head", type=positive, metavar="N", help="counted from 1; all by default")
    added.add_argument("--beam", type=positive, metavar="N", help="beam width; 1 is greedy; the recipe's by default")
    added.add_argument(
        "--output", metavar="FILE", help="the maps as .html, .png, .svg or .pdf, all numbers as .json or .npz"
    )

    added = verb("align", _align, "link the words of pairs by cross-attention, in Pharaoh format")
    add_run(added)
    add_pairs(added, "the recipe's data.test by default")
    added.add_argument("--gold", metavar="FILE", help="right alignments in Pharaoh format, to choose the best head by")
    added.add_argument("--layer", type=positive, metavar="N", help="counted from 1; the best is chosen by default")
    added.add_argument("--head", type=positive, metavar="N", help="counted from 1; goes with --layer")
    added.add_argument("--shifted", action="store_true", help="with --head: a token's weights when it is read")
    added.add_argument("--output", metavar="FILE", help="standard output by default")


def _attention(options: argparse.Namespace) -> None:
    from qkv.inspection.attention_maps import attention_maps, save

    inspection = attention_maps(translator_of(options), options.text, options.target, beam=options.beam)
    chosen = {"kind": options.kind, "layer": options.layer, "head": options.head}
    inspection.maps(**chosen)  # refuses what there is not
    if options.output is not None:
        save(inspection, options.output, **chosen)
    else:
        print_lines(_described(inspection, **chosen))


def _described(inspection: "Inspection", kind: str | None, layer: int | None, head: int | None) -> list[str]:
    """The translation; then a line per head and token: what looks, what it looks at most, with which weight."""
    lines = [one_line(inspection.translation)]
    for one in inspection.maps(kind, layer, head):
        for row, token in enumerate(one.rows):
            column = int(one.weights[row].argmax())
            weight = f"{one.weights[row, column]:.4f}"
            lines.append("\t".join([one.kind, str(one.layer), str(one.head), token, one.columns[column], weight]))
    return lines


def _align(options: argparse.Namespace) -> None:
    from qkv.inspection.alignment import align, read_pharaoh, to_pharaoh
    from qkv.run import preparation
    from qkv.run.directory import Run
    from qkv.text.corpus import read_lines, read_pairs

    config = Run.open(options.run).config
    files = files_of_pairs(options)
    if files is None and config.data.test is None:
        raise UserError(f"{options.run}: its recipe has no data.test; say --data FILE, or --source FILE --target FILE")
    head = _head(options)
    gold = None if options.gold is None else read_pharaoh(read_lines(options.gold))
    pairs = list(read_pairs(files or preparation.pair_files(config, "test")))
    found = align(translator_of(options), pairs, head=head, gold=gold)
    if head is None:
        print(f"{found.head}: {found.chosen_by}", file=sys.stderr)
    lines = map(to_pharaoh, found.links)
    if options.output is None:
        print_lines(lines)
    else:
        write_file(options.output, lines)


def _head(options: argparse.Namespace) -> "AlignmentHead | None":
    from qkv.inspection.alignment import AlignmentHead

    if (options.layer is None) != (options.head is None):
        raise UserError("--layer and --head go together")
    if options.layer is None:
        if options.shifted:
            raise UserError("--shifted goes with --layer and --head; where the best head is chosen, both are tried")
        return None
    if options.gold is not None:
        raise UserError("--gold chooses a head, so it does not go with --layer and --head")
    return AlignmentHead(options.layer, options.head, options.shifted)
