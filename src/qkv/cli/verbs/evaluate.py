"""Translate test pairs and print the scores."""

import json
import sys
from argparse import ArgumentParser, Namespace

from qkv.cli.arguments import add_pairs, add_run, add_search, files_or_test, names, translator_of
from qkv.cli.streams import complain, is_terminal, one_line, put


def add(parser: ArgumentParser) -> None:
    from qkv.metrics import METRICS
    from qkv.metrics.tokenization import TOKENIZERS

    add_run(parser, several=True)
    add_pairs(parser)
    parser.add_argument("--metrics", metavar="A,B", help=", ".join(METRICS))
    tokenizers = f"sacreBLEU's tokenizer for bleu: {', '.join(TOKENIZERS)}; the recipe's by default"
    parser.add_argument("--bleu-tokenize", choices=TOKENIZERS, metavar="NAME", help=tokenizers)
    parser.add_argument("--output", metavar="FILE", help="also write the outputs there, one a line")
    parser.add_argument("--json", action="store_true", help="print scores and signatures as JSON")
    add_search(parser)


def run(options: Namespace) -> None:
    from qkv.evaluation.evaluate import evaluate
    from qkv.run.directory import Run

    files, wanted = files_or_test(options), Run.open(options.run).config.evaluation
    result = evaluate(
        translator_of(options),
        files,
        names(options.metrics) or wanted.metrics,
        beam=options.beam,
        length_penalty=options.length_penalty,
        bleu_tokenize=options.bleu_tokenize or wanted.bleu_tokenize,
        progress=is_terminal(sys.stderr),
    )
    for remark in result.remarks:
        complain(remark)
    if options.json:
        print(json.dumps({s.name: {"value": s.value, "signature": s.signature} for s in result.scores.values()}))
    else:
        print(f"{len(result.pairs):,} pairs of {len({pair.source for pair in result.pairs}):,} different sources")
        put(map(str, result.scores.values()))
    if options.output is not None:
        put(map(one_line, result.outputs), options.output)
