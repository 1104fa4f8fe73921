"""What a verb of the command line is."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb: what it takes and what it does.

    Its module is read to show `qkv --help`, so it imports nothing heavy at its top.

    Attributes:
        summary: a line for `qkv --help`, in lower case, without a full stop.
        add: gives a parser the verb's arguments; see `qkv.cli.arguments` for those that several verbs take.
        run: does it; a mistake of the user's is raised as a `UserError`.
    """

    summary: str
    add: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]
