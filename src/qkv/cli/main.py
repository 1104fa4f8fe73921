"""The command line: verbs only. Each parses, calls one function and prints. Heavy imports wait until a verb runs."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, TypeVar

from qkv import __version__
from qkv.cli import benchmark as cli_benchmark
from qkv.cli import inspection as cli_inspection
from qkv.cli import report as cli_report
from qkv.cli import serving as cli_serving
from qkv.cli.shared import (
    add_engine,
    add_pairs,
    add_run,
    add_search,
    files_of_pairs,
    is_terminal,
    names,
    one_line,
    positive,
    print_lines,
    translator_of,
    write_file,
)
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.text.corpus import Pair
    from qkv.translator import Translator

Item = TypeVar("Item")
Result = TypeVar("Result")

_ITEMS_AT_ONCE = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    try:
        options = _parse(arguments)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # what we read is UTF-8, too, whatever the locale says
        options.verb(options)
        _flush()
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has had enough (`| head`): not an error
        _discard_output()
    except OSError as error:
        _discard_output()
        reason = error.strerror or str(error)
        return _refuse(f"{error.filename}: {reason}" if error.filename else reason)
    return 0


def _refuse(message: str) -> int:
    print(f"qkv: {' '.join(message.splitlines())}", file=sys.stderr)
    return 2


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _discard_output() -> None:
    """If standard output takes no more, drop what it was to take: Python would try again, and fail, at its end."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# The grammar


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints take one line, as all of qkv's do."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse loses what comes after an option: train RECIPE --resume key=value.
    if rest and options.verb in (_train, _compare) and not any(argument.startswith("-") for argument in rest):
        options.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qkv",
        description="Train, use and measure encoder–decoder models: pairs of sequences in, a model out.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qkv {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, function: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        description = summary[0].upper() + summary[1:] + "."
        added = verbs.add_parser(name, help=summary, description=description, allow_abbrev=False)
        added.set_defaults(verb=function)
        return added

    added = verb("train", _train, "train a model as a recipe says")
    added.add_argument("recipe", help="a YAML recipe (recipes/reference.yaml documents every key), or a run to resume")
    added.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe: training.budget=15m")
    added.add_argument("--resume", action="store_true", help="go on with the run from its newest checkpoint")
    added.add_argument("--quiet", action="store_true", help="show nothing while training")

    added = verb("compare", _compare, "train variants of a recipe alike, measure them, and write a report")
    added.add_argument("recipe", help="a YAML recipe")
    added.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, for all variants")
    added.add_argument(
        "--vary",
        action="append",
        required=True,
        metavar="KEY=A,B",
        help="a key of the recipe and its values; given again, every combination is trained",
    )
    added.add_argument("--budget", metavar="TIME", help="of each training: 90s, 10m, 1h; as the recipe by default")
    added.add_argument("--output", metavar="DIR", help="runs and report; runs/compare-RECIPE by default")
    added.add_argument("--metrics", metavar="A,B", help="in place of the recipe's evaluation.metrics")
    added.add_argument("--beam", type=positive, metavar="N", help="beam width; the recipe's by default")
    added.add_argument("--quiet", action="store_true", help="show nothing while training")

    added = verb("translate", _translate, "translate lines with a trained model")
    add_run(added)
    added.add_argument("--input", metavar="FILE", help="one source a line; standard input by default")
    added.add_argument("--output", metavar="FILE", help="standard output by default")
    added.add_argument("--n-best", type=positive, metavar="N", help="print N outputs: line number, score, text")
    add_search(added)

    added = verb("evaluate", _evaluate, "translate test pairs and print the scores")
    add_run(added)
    add_pairs(added, "the recipe's data.test by default")
    added.add_argument("--metrics", metavar="A,B", help="bleu, chrf, ter, wer, per, cer, residues, exact_match")
    added.add_argument("--output", metavar="FILE", help="also write the outputs there, one a line")
    added.add_argument("--json", action="store_true", help="print scores and signatures as JSON")
    add_search(added)

    added = verb("score", _score, "print how probable a model finds given targets: log-probability, perplexity")
    add_run(added)
    add_pairs(added, "TSV lines from standard input by default")
    added.add_argument("--tokens", action="store_true", help="also print every token with its log-probability")
    add_engine(added)

    added = verb("average", _average, "average the last checkpoints of a run into a new one")
    added.add_argument("run", help="a run directory")
    added.add_argument("--last", type=positive, default=5, metavar="N", help="how many checkpoints (default: 5)")
    added.add_argument("--use", action="store_true", help="make it the one that the run uses from now on")

    added = verb("info", _info, "describe a run")
    added.add_argument("run", help="a run directory")

    cli_inspection.add_verbs(verb)
    cli_report.add_verbs(verb)
    cli_benchmark.add_verbs(verb)
    cli_serving.add_verbs(verb)
    return parser


# The verbs


def _train(options: argparse.Namespace) -> None:
    from qkv.devices import keep_freed_memory
    from qkv.experiment.experiment import resume, train

    keep_freed_memory()
    start = resume if options.resume else train
    start(options.recipe, options.overrides, progress=not options.quiet)


def _compare(options: argparse.Namespace) -> None:
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


def _translate(options: argparse.Namespace) -> None:
    if options.input is None and options.output is None and is_terminal(sys.stdin, sys.stdout):
        _converse(translator_of(options), options)
        return
    lines = _input_lines(options.input)
    outputs = _translated(translator_of(options), lines, options, progress=is_terminal(sys.stderr))
    if options.output is None:
        print_lines(outputs)
    else:
        write_file(options.output, outputs)


def _translated(
    translator: "Translator", lines: Iterator[str], options: argparse.Namespace, *, progress: bool = False
) -> Iterator[str]:
    """The lines to print for some sources."""
    search = {"beam": options.beam, "length_penalty": options.length_penalty, "progress": progress}
    if options.n_best is None:
        yield from map(one_line, _in_chunks(lines, lambda chunk: translator.translate(chunk, **search)))
        return
    found = _in_chunks(lines, lambda chunk: translator.n_best(chunk, options.n_best, **search))
    for number, outputs in enumerate(found, start=1):
        yield from (f"{number}\t{output.score:.4f}\t{one_line(output.text)}" for output in outputs)


def _converse(translator: "Translator", options: argparse.Namespace) -> None:
    """A prompt for a person: one line in, one translation out, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())

    print("Type a source and press Enter; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            print_lines(_translated(translator, iter([input("> ")]), options))
        except EOFError:
            print(file=sys.stderr)
            return
        except UnicodeDecodeError:
            _refuse("that was not valid UTF-8")
        except UserError as error:
            _refuse(str(error))


def _evaluate(options: argparse.Namespace) -> None:
    import json

    from qkv.evaluation.evaluate import evaluate
    from qkv.run.directory import Run
    from qkv.run.preparation import pair_files

    config = Run.open(options.run).config
    files = files_of_pairs(options)
    if files is None and config.data.test is None:
        raise UserError(f"{options.run}: its recipe has no data.test; say --data FILE, or --source FILE --target FILE")
    result = evaluate(
        translator_of(options),
        files or pair_files(config, "test"),
        names(options.metrics) or config.evaluation.metrics,
        beam=options.beam,
        length_penalty=options.length_penalty,
        progress=is_terminal(sys.stderr),
    )
    if options.json:
        print(json.dumps({s.name: {"value": s.value, "signature": s.signature} for s in result.scores.values()}))
    else:
        print(f"{len(result.pairs):,} pairs of {len({pair.source for pair in result.pairs}):,} different sources")
        print_lines(map(str, result.scores.values()))
    if options.output is not None:
        write_file(options.output, map(one_line, result.outputs))


def _score(options: argparse.Namespace) -> None:
    from qkv.text.corpus import read_pairs

    files = files_of_pairs(options)
    pairs = _pairs_of_input() if files is None else read_pairs(files)
    translator, progress = translator_of(options), is_terminal(sys.stderr)
    for score in _in_chunks(pairs, lambda chunk: translator.score(chunk, progress=progress)):
        columns = [f"{score.log_probability:.4f}", f"{score.perplexity:.4f}"]
        if options.tokens:
            tokens = zip(score.tokens, score.token_log_probabilities, strict=True)
            columns.append(" ".join(f"{token}:{value:.4f}" for token, value in tokens))
        print("\t".join(columns))


def _average(options: argparse.Namespace) -> None:
    from qkv.files import point
    from qkv.run.checkpoint import average_run
    from qkv.run.directory import Run
    from qkv.run.lock import locked

    run = Run.open(options.run)
    with locked(run):
        averaged = average_run(run, options.last)
        if options.use:
            point(run.best_path, averaged)
    print(averaged)


def _info(options: argparse.Namespace) -> None:
    from qkv.run.description import describe
    from qkv.run.directory import Run

    print(describe(Run.open(options.run)))


# What several verbs need


def _in_chunks(items: Iterator[Item], function: Callable[[list[Item]], list[Result]]) -> Iterator[Result]:
    """Apply `function` to a few thousand items at a time: enough for good batches, and memory stays bounded."""
    before = 0
    while chunk := list(islice(items, _ITEMS_AT_ONCE)):
        try:
            yield from function(chunk)
        except UserError as error:
            raise UserError(f"after {before:,} lines: {error}" if before else str(error)) from None
        before += len(chunk)
        _flush()


def _input_lines(path: str | None) -> Iterator[str]:
    from qkv.text.corpus import read_lines

    if path is None and sys.stdin is None:
        raise UserError("standard input is closed")
    return read_lines(sys.stdin.buffer if path is None else path)


def _pairs_of_input() -> "Iterator[Pair]":
    from qkv.text.corpus import Pair

    for number, line in enumerate(_input_lines(None), start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(f"standard input:{number}: no tab; write source TAB target")
        yield Pair(*columns[:2])
