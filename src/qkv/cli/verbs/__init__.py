"""The verbs by name, in the order of `qkv --help`: a module for each. Other packages add theirs as `qkv.verbs`."""

from argparse import ArgumentParser, Namespace
from typing import Protocol, runtime_checkable

from qkv.registry import Registry


@runtime_checkable
class Verb(Protocol):
    """A module whose docstring begins with a sentence for `qkv --help`, for which it is read: it imports nothing heavy.

    A mistake of the user's is raised as a `UserError`.
    """

    def add(self, parser: ArgumentParser) -> None:
        """Give a parser the verb's arguments; see `qkv.cli.arguments` for those that several verbs take."""

    def run(self, options: Namespace) -> None:
        """Do it."""


_NAMES = "train compare translate evaluate score average export info attention align shapes report benchmark inspect"
VERBS: Registry[Verb] = Registry("verb", {name: f"qkv.cli.verbs.{name}" for name in _NAMES.split()})
