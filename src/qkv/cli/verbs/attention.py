"""`qkv attention`: where a model looks."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qkv.cli.arguments import add_beam, add_head, add_run, translator_of
from qkv.cli.streams import one_line, put
from qkv.cli.verb import Verb

if TYPE_CHECKING:
    from qkv.inspection.attention_maps import Inspection


def _add(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("text", help="a source")
    parser.add_argument("--target", metavar="TEXT", help="what to lead the model along; by default its own translation")
    parser.add_argument("--kind", metavar="KIND", help="encoder, decoder or cross; all that there are by default")
    add_head(parser, "all by default", "all by default")
    add_beam(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="the maps as .html, .png, .svg or .pdf, all numbers as .json or .npz"
    )


def _run(options: Namespace) -> None:
    from qkv.inspection.attention_maps import attention_maps, save

    inspection = attention_maps(translator_of(options), options.text, options.target, beam=options.beam)
    chosen = {"kind": options.kind, "layer": options.layer, "head": options.head}
    inspection.maps(**chosen)  # refuses what there is not
    if options.output is not None:
        save(inspection, options.output, **chosen)
    else:
        put(_described(inspection, **chosen))


def _described(inspection: "Inspection", kind: str | None, layer: int | None, head: int | None) -> Iterator[str]:
    """The translation; then a line per head and token: what looks, what it looks at most, with which weight."""
    yield one_line(inspection.translation)
    for one in inspection.maps(kind, layer, head):
        for row, token in enumerate(one.rows):
            column = int(one.weights[row].argmax())
            weight = f"{one.weights[row, column]:.4f}"
            yield "\t".join([one.kind, str(one.layer), str(one.head), token, one.columns[column], weight])


VERB = Verb("show where a model looks, for every layer and head", _add, _run)
