"""Show where a model looks, for every layer and head."""

from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import add_beam, add_head, add_run, translator_of
from qkv.cli.streams import one_line


def add(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("text", help="a source")
    parser.add_argument("--target", metavar="TEXT", help="what to lead the model along; by default its own translation")
    parser.add_argument("--kind", metavar="KIND", help="encoder, decoder or cross; all that there are by default")
    add_head(parser, "all by default", "all by default")
    add_beam(parser)
    output = "the maps as .html, .png, .svg or .pdf, all numbers as .json or .npz"
    parser.add_argument("--output", metavar="FILE", help=output)


def run(options: Namespace) -> None:
    from qkv.inspection.attention_maps import attention_maps, save

    inspection = attention_maps(translator_of(options), options.text, options.target, beam=options.beam)
    chosen = {"kind": options.kind, "layer": options.layer, "head": options.head}
    maps = inspection.maps(**chosen)  # refuses what there is not
    if options.output is not None:
        save(inspection, options.output, **chosen)
        return
    print(one_line(inspection.translation))
    for one in maps:
        for token, weights in zip(one.rows, one.weights, strict=True):
            most = int(weights.argmax())
            print(one.kind, one.layer, one.head, token, one.columns[most], f"{weights[most]:.4f}", sep="\t")
