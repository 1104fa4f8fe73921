"""The command line: finds the verb, reads its arguments, runs it. Heavy imports wait until a verb runs."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from qkv import __version__
from qkv.cli.streams import complain, flush
from qkv.cli.verbs import VERBS, Verb
from qkv.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's mistake, 130 interrupted, 141 nobody reads on."""
    try:
        verb, options = parse(sys.argv[1:] if arguments is None else arguments)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # what we read is UTF-8, too, whatever the locale says
        verb.run(options)
        flush()
    except UserError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has had enough (`| head`): no fault, but not all is done
        return 141  # 128 + SIGPIPE, as shells have it of a program that it ends
    except OSError as error:
        reason = error.strerror or str(error)
        complain(f"{error.filename}: {reason}" if error.filename else reason)
        return 2
    finally:
        _discard_output()
    return 0


def parse(arguments: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """The verb that a command names, and its options. No other verb is loaded.

    Raises:
        UserError: if there is no such verb, or it does not take these arguments.
    """
    if not arguments or arguments[0].startswith("-"):
        parser = _all_verbs()
        parser.parse_known_args(arguments)  # --help and --version end here
        parser.error("a verb comes first")
    verb = _find(arguments[0])
    parser = _Parser(prog=f"qkv {arguments[0]}", description=_summary(verb), allow_abbrev=False)
    verb.add(parser)
    options, rest = parser.parse_known_args(arguments[1:])
    # argparse loses what comes after an option: train RECIPE --resume key=value.
    if "overrides" in options and not any(argument.startswith("-") for argument in rest):
        options.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return verb, options


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints take one line, as all of qkv's do."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _all_verbs() -> argparse.ArgumentParser:
    what = "Train, use and measure encoder–decoder models: pairs of sequences in, a model out."
    parser = _Parser(prog="qkv", description=what, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"qkv {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in VERBS:
        try:
            summary = _summary(_find(name)).rstrip(".")
        except UserError as error:  # another package's, which is no reason to hide the others
            summary = str(error)
        verbs.add_parser(name, help=summary[:1].lower() + summary[1:].replace("%", "%%"))
    return parser


def _find(name: str) -> Verb:
    verb = VERBS.find(name)
    if not isinstance(verb, Verb):
        raise UserError(f"verb {name!r} cannot be used: its package gives {verb!r}, not a Verb")
    return verb


def _summary(verb: Verb) -> str:
    return (verb.__doc__ or "").partition("\n")[0]


def _discard_output() -> None:
    """If a standard stream takes no more, drop what it was to take: Python would try again, and fail, at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
