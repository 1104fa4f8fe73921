"""The command line: verbs only. Each parses, calls one function and prints. Heavy imports wait until a verb runs."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from qkv import __version__
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.text.corpus import PairFiles
    from qkv.translator import Translator

_LINES_AT_ONCE = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.verb(options)
        sys.stdout.flush()
    except UserError as error:
        print(f"qkv: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough (`| head`): not an error, but nothing more may be flushed either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qkv",
        description="Train, use and measure encoder–decoder models: pairs of sequences in, a model out.",
    )
    parser.add_argument("--version", action="version", version=f"qkv {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, function: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        added.set_defaults(verb=function)
        return added

    added = verb("train", _train, "train a model as a recipe says")
    added.add_argument("recipe", help="a YAML recipe (recipes/reference.yaml documents every key), or a run to resume")
    added.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe: training.budget=15m")
    added.add_argument("--resume", action="store_true", help="go on with the run from its newest checkpoint")
    added.add_argument("--quiet", action="store_true", help="show nothing while training")

    added = verb("translate", _translate, "translate lines with a trained model")
    _add_run(added)
    added.add_argument("--input", metavar="FILE", help="one source a line; standard input by default")
    added.add_argument("--output", metavar="FILE", help="standard output by default")
    added.add_argument("--n-best", type=_positive, metavar="N", help="print N outputs: line number, score, text")
    _add_search(added)

    added = verb("evaluate", _evaluate, "translate test pairs and print the scores")
    _add_run(added)
    _add_pairs(added, "the recipe's data.test by default")
    added.add_argument("--metrics", metavar="A,B", help="bleu, chrf, ter, wer, per, cer, exact_match")
    added.add_argument("--output", metavar="FILE", help="also write the outputs there, one a line")
    added.add_argument("--json", action="store_true", help="print scores and signatures as JSON")
    _add_search(added)

    added = verb("score", _score, "print how probable a model finds given targets")
    _add_run(added)
    _add_pairs(added, "TSV lines from standard input by default")
    added.add_argument("--tokens", action="store_true", help="also print every token with its log-probability")

    added = verb("average", _average, "average the last checkpoints of a run into a new one")
    added.add_argument("run", help="a run directory")
    added.add_argument("--last", type=_positive, default=5, metavar="N", help="how many checkpoints (default: 5)")
    added.add_argument("--use", action="store_true", help="make it the one that the run uses from now on")

    added = verb("info", _info, "describe a run")
    added.add_argument("run", help="a run directory")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_positive.__name__ = "number of at least 1"


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--checkpoint", metavar="NAME", help="best (default), last, or one under RUN/checkpoints")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads; all cores by default")


def _add_pairs(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument("--data", metavar="FILE", help=f"pairs as TSV, JSONL or Parquet; {otherwise}")
    parser.add_argument("--source", metavar="FILE", help="sources, one a line, aligned with --target")
    parser.add_argument("--target", metavar="FILE", help="targets, one a line, aligned with --source")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beam", type=_positive, metavar="N", help="beam width; 1 is greedy; the recipe's by default")
    parser.add_argument("--length-penalty", type=float, metavar="X", help="score = log-probability / length^X")


# The verbs


def _train(options: argparse.Namespace) -> None:
    if any("=" not in override for override in options.overrides):
        wrong = next(override for override in options.overrides if "=" not in override)
        raise UserError(f"{wrong!r}: an override is written key=value, like training.steps=1000")
    from qkv.training.trainer import resume, train

    if options.resume:
        resume(options.recipe, options.overrides, progress=not options.quiet)
    else:
        train(options.recipe, options.overrides, progress=not options.quiet)


def _translate(options: argparse.Namespace) -> None:
    translator = _translator(options)
    if options.input is None and sys.stdin.isatty():
        _converse(translator, options)
        return
    lines = _input_lines(options.input)
    if options.output is None:
        for text in _translated(translator, lines, options):
            print(text)
        return
    from pathlib import Path

    from qkv.files import write_lines

    write_lines(Path(options.output), _translated(translator, lines, options))


def _translated(translator: "Translator", lines: Iterator[str], options: argparse.Namespace) -> Iterator[str]:
    from itertools import islice

    before = 0
    while chunk := list(islice(lines, _LINES_AT_ONCE)):
        if options.n_best is None:
            yield from translator.translate(
                chunk, beam=options.beam, length_penalty=options.length_penalty, progress=True
            )
        else:
            found = translator.n_best(
                chunk, options.n_best, beam=options.beam, length_penalty=options.length_penalty, progress=True
            )
            for number, outputs in enumerate(found, start=before + 1):
                yield from (f"{number}\t{output.score:.4f}\t{output.text}" for output in outputs)
        before += len(chunk)


def _converse(translator: "Translator", options: argparse.Namespace) -> None:
    """A prompt for a person: one line in, one translation out, until Ctrl-D."""
    import readline  # noqa: F401  (line editing and history for input())

    print("Type a source and press Enter; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return
        try:
            print("\n".join(_translated(translator, iter([line]), options)))
        except UserError as error:
            print(f"qkv: {error}", file=sys.stderr)


def _evaluate(options: argparse.Namespace) -> None:
    import json
    from pathlib import Path

    from qkv.evaluation import evaluate
    from qkv.files import write_lines
    from qkv.run import Run
    from qkv.training.preparation import pair_files

    config = Run.open(options.run).config
    files = _pair_files(options) or pair_files(config, "test")
    metrics = options.metrics.split(",") if options.metrics else config.evaluation.metrics
    result = evaluate(
        _translator(options),
        files,
        metrics,
        beam=options.beam,
        length_penalty=options.length_penalty,
        progress=True,
    )
    if options.output:
        write_lines(Path(options.output), result.outputs)
    if options.json:
        print(json.dumps({s.name: {"value": s.value, "signature": s.signature} for s in result.scores.values()}))
        return
    print(f"{len(result.pairs):,} pairs of {len({pair.source for pair in result.pairs}):,} different sources")
    for score in result.scores.values():
        print(score)


def _score(options: argparse.Namespace) -> None:
    from qkv.text.corpus import Pair, read_pairs

    translator = _translator(options)
    files = _pair_files(options)
    if files is None:
        pairs = [Pair(*_two_columns(number, line)) for number, line in enumerate(_input_lines(None), start=1)]
    else:
        pairs = list(read_pairs(files))
    for score in translator.score(pairs):
        columns = [f"{score.log_probability:.4f}", f"{score.perplexity:.4f}"]
        if options.tokens:
            tokens = zip(score.tokens, score.token_log_probabilities, strict=True)
            columns.append(" ".join(f"{token}:{value:.4f}" for token, value in tokens))
        print("\t".join(columns))


def _average(options: argparse.Namespace) -> None:
    from qkv.files import point
    from qkv.run import Run
    from qkv.training.checkpoint import average_run

    run = Run.open(options.run)
    averaged = average_run(run, options.last)
    if options.use:
        point(run.best_path, averaged)
    print(averaged)


def _info(options: argparse.Namespace) -> None:
    from qkv.description import describe
    from qkv.run import Run

    print(describe(Run.open(options.run)))


# What several verbs need


def _translator(options: argparse.Namespace) -> "Translator":
    from qkv.translator import load

    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    return load(options.run, checkpoint=options.checkpoint, device=options.device)


def _pair_files(options: argparse.Namespace) -> "PairFiles | None":
    from qkv.text.corpus import PairFiles

    if options.data is None and options.source is None and options.target is None:
        return None
    return PairFiles(options.data, options.source, options.target)


def _input_lines(path: str | None) -> Iterator[str]:
    from qkv.text.corpus import read_lines

    return read_lines("/dev/stdin" if path is None else path)


def _two_columns(number: int, line: str) -> tuple[str, str]:
    source, tab, target = line.partition("\t")
    if not tab:
        raise UserError(f"standard input, line {number}: no tab; write source TAB target")
    return source, target
