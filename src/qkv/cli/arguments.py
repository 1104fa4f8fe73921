"""Arguments that several verbs take, and what is made of them."""

import os
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING, Any

from qkv.cli.streams import complain
from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.text.corpus import PairFiles
    from qkv.translator import Translator


def positive(text: str) -> int:
    """A number of at least 1, for `type=`."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"a number of at least 1 is needed, not {text!r}")
    return int(text)


def add_recipe(parser: ArgumentParser, what: str = "a YAML recipe", changes: str = "changes to the recipe") -> None:
    """A recipe and changes to it, which may come after options, too: train RECIPE --resume key=value."""
    parser.add_argument("recipe", help=what)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=changes)


def add_run(parser: ArgumentParser, what: str = "a run directory", *, several: bool = False) -> None:
    """The run, or several, and what a translator is loaded with; see `translator_of`."""
    parser.add_argument("run", help=what)
    if several:
        together = "more runs with the same vocabularies: an ensemble, whose models' log-probabilities are averaged"
        parser.add_argument("more_runs", nargs="*", metavar="RUN2", help=together)
    add_checkpoint(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; all cores by default")


def add_checkpoint(parser: ArgumentParser) -> None:
    """Which of the run's checkpoints."""
    parser.add_argument("--checkpoint", metavar="NAME", help="best (default), last, or one under RUN/checkpoints")


def add_pairs(parser: ArgumentParser, otherwise: str = "the recipe's data.test by default") -> None:
    """Where pairs are; see `files_of_pairs`."""
    from qkv.text.formats import FORMATS

    parser.add_argument("--data", metavar="FILE", help=f"pairs as TSV, JSONL or Parquet; {otherwise}")
    parser.add_argument("--source", metavar="FILE", help="sources, one a line, aligned with --target")
    parser.add_argument("--target", metavar="FILE", help="targets, one a line, aligned with --source")
    parser.add_argument(
        "--format", metavar="NAME", help=f"of --data, if its suffix does not tell: {', '.join(FORMATS)}"
    )
    column = "its column in --data, a number from 0 or a name; by default as in the recipe's files of this format"
    parser.add_argument("--source-column", metavar="COLUMN", help=f"the source: {column}")
    parser.add_argument("--target-column", metavar="COLUMN", help="the same for the target")
    header = "whether the first line of a TSV names its columns; as in the recipe, or as it looks, by default"
    parser.add_argument("--header", action=BooleanOptionalAction, help=header)


def add_beam(parser: ArgumentParser, what: str = "beam width; 1 is greedy; the recipe's by default") -> None:
    """How wide to search."""
    parser.add_argument("--beam", type=positive, metavar="N", help=what)


def add_search(parser: ArgumentParser) -> None:
    """How to search."""
    add_beam(parser)
    parser.add_argument("--length-penalty", type=float, metavar="X", help="score = log-probability / length^X")
    add_engine(parser)
    shortlist = "look only at the N likeliest target tokens for each source token"
    parser.add_argument("--shortlist", type=positive, metavar="N", help=shortlist)


def add_engine(parser: ArgumentParser) -> None:
    """What decodes; see `translator_of`."""
    from qkv.decoding.engines import PRECISIONS
    from qkv.decoding.engines.registry import ENGINES

    for name, choices in (("--engine", ENGINES), ("--precision", PRECISIONS)):
        parser.add_argument(name, metavar="NAME", help=f"{', '.join(choices)}; the recipe's by default")


def add_head(parser: ArgumentParser, layer: str, head: str) -> None:
    """A layer and a head, counted from 1 as people do; what there is if they are not said."""
    parser.add_argument("--layer", type=positive, metavar="N", help=f"counted from 1; {layer}")
    parser.add_argument("--head", type=positive, metavar="N", help=f"counted from 1; {head}")


def translator_of(options: Namespace) -> "Translator":
    """The translator that was asked for; see `add_run`."""
    from qkv.loading import load
    from qkv.progress import tell

    set_up_process(options)
    how = {name: getattr(options, name, None) for name in ("engine", "precision", "shortlist")}
    runs = [options.run, *getattr(options, "more_runs", [])]
    translator = load(runs, checkpoint=options.checkpoint, device=options.device, **how)
    if translator.engine.note:
        tell(translator.engine.note)
    return translator


def set_up_process(options: Namespace) -> None:
    """What a command may do to its own process, and a library never to its host's: threads, and freed memory kept."""
    import torch

    from qkv.devices import keep_freed_memory

    keep_freed_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def files_of_pairs(options: Namespace, *, stream: bool = False) -> "PairFiles | None":
    """Where the pairs are that were asked for, read as `read_as_said`; None if no file was named.

    `stream`: whether pairs come from standard input then, which columns may be said of, too.
    """
    from qkv.text.corpus import PairFiles

    named = {"path": options.data, "source": options.source, "target": options.target}
    if any(path is not None for path in named.values()):
        return read_as_said(options, PairFiles(**named))
    if (said := _said(options)) and not stream:
        raise UserError(f"--{next(iter(said)).replace('_', '-')} goes with --data FILE")
    return None


def read_as_said(options: Namespace, files: "PairFiles") -> "PairFiles":
    """These files, read as options say, and else as the recipe reads the same file or its own of this format."""
    own = {} if files.path is None else _as_in_recipe(options.run, files.changed(format=options.format or files.format))
    return files.changed(**own | _said(options))


def _said(options: Namespace) -> dict[str, Any]:
    """What options say of how a file is read."""
    from qkv.text.corpus import READ_AS

    return {name: value for name in READ_AS if (value := getattr(options, name)) is not None}


def _as_in_recipe(run: str, files: "PairFiles") -> dict[str, Any]:
    """How the recipe reads this file, or else the first of its own of this format; the latter is told."""
    from qkv.run.directory import Run
    from qkv.text.compression import plain_suffix

    data = Run.open(run).config.data
    named = {name: getattr(data, name) for name in ("test", "validation", "train")}
    own = {name: ours.below(data.root) for name, ours in named.items() if ours is not None and ours.path is not None}
    kind, real = files.format_name or plain_suffix(str(files.path)), os.path.realpath(str(files.path))
    own = {name: ours for name, ours in own.items() if kind in (ours.format_name, plain_suffix(str(ours.path)))}
    for ours in own.values():
        if os.path.realpath(str(ours.path)) == real:
            return ours.read_as()
    for name, ours in own.items():
        ways = ours.read_as()
        if ways.keys() - {"format"}:
            complain(f"{files.path}: read as data.{name} is: {', '.join(f'{key} {ways[key]}' for key in ways)}")
        return ways
    return {}


def files_or_test(options: Namespace) -> "PairFiles":
    """Where the pairs are that were asked for, or else the recipe's test pairs."""
    from qkv.run.directory import Run
    from qkv.run.preparation import pair_files

    config, files = Run.open(options.run).config, files_of_pairs(options)
    if files is None and config.data.test is None:
        raise UserError(f"{options.run}: its recipe has no data.test; say --data FILE, or --source FILE --target FILE")
    return files or pair_files(config, "test")


def names(text: str | None) -> list[str]:
    """Names between commas or spaces."""
    return (text or "").replace(",", " ").split()
