"""The API reference, from the docstrings: `make docs` writes it to build/docs, a page for each module.

Whatever is wrong with it is an error, not a warning: a public name that leads nowhere, an annotation that cannot be
read, an argument that is explained and does not exist, a name in a docstring that has moved.
"""

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.extract
import pdoc.render

from qkv.registry import Registry

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^(Args|Attributes):\n((?:[ ]{4}.*\n|\n)+)", re.MULTILINE)
EXPLAINED = re.compile(r"^ {4}\*{0,2}(\w+)(?: \(.*?\))?:", re.MULTILINE)


def modules(package: str) -> list[str]:
    """A package and all that is in it, by name."""
    path = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    return [package, *(name for name in names if not name.endswith(".__main__"))]


def render(package: str, directory: Path, *, source: bool = True) -> list[str]:
    """Write a package's reference into a directory, with the source beside each docstring, which takes as long again.

    Returns:
        All that is wrong with it.
    """
    top = importlib.import_module(package)
    for name in getattr(top, "__all__", []):
        if hasattr(top, name):
            setattr(top, name, getattr(top, name))  # qkv's are there once they are asked for; pdoc looks without asking
    footer = f"{package} {getattr(top, '__version__', '')}"
    pdoc.render.configure(docformat="google", show_source=source, footer_text=footer)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"pdoc\.")
        pdoc.pdoc(*specifications(package), output_directory=directory)
    return [str(warning.message) for warning in seen] + list(faults(package))


def specifications(package: str) -> list[str]:
    """What pdoc is to be told of: it finds a package's modules itself, unless that has an `__all__`."""
    told: list[str] = []
    found: set[str] = set()
    for name in modules(package):
        if name not in found:
            told.append(name)
            found.update(pdoc.extract.walk_specs([name]))
    return told


def faults(package: str) -> Iterator[str]:
    """What pdoc does not look for: docstrings that speak of what is not there."""
    mentions = re.compile(rf"`({package}(?:\.\w+)+)(?:\(\))?`")
    found = [importlib.import_module(name) for name in modules(package)]
    groups = {value.group for module in found for value in vars(module).values() if isinstance(value, Registry)}
    for module in found:
        for part in parts(pdoc.doc.Module(module)):
            for mentioned in mentions.findall(part.docstring):
                if not exists(mentioned) and mentioned not in groups:  # an entry point's group looks like a module
                    yield f"{part.fullname}: there is no {mentioned}"
            for section, text in SECTION.findall(part.docstring + "\n"):
                for explained in EXPLAINED.findall(text):
                    if explained not in known(part, section):
                        yield f"{part.fullname}: {section} explains {explained}, which does not exist"


def parts(of: pdoc.doc.Doc[Any]) -> Iterator[pdoc.doc.Doc[Any]]:
    """A module or class, and all that stands in it, save what is inherited."""
    yield of
    if isinstance(of, pdoc.doc.Namespace):
        for member in of.own_members:
            if not isinstance(member, pdoc.doc.Module):
                yield from parts(member)


def known(part: pdoc.doc.Doc[Any], section: str) -> set[str]:
    """What a section of a docstring may explain: parameters, or a class's attributes."""
    if section == "Args":
        return set(inspect.signature(part.obj).parameters)
    assert isinstance(part, pdoc.doc.Class), f"{part.fullname} has attributes and is no class"
    return set(part.members) | set(re.findall(r"self\.(\w+)", inspect.getsource(part.obj)))


def exists(name: str) -> bool:
    """Whether a dotted name leads to a module, or to something in one."""
    module, rest = name, list[str]()
    while True:
        try:
            found: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for part in rest:
        if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
            return False
        found = getattr(found, part, None)
    return True


def main() -> int:
    """Write qkv's API reference, and say what is wrong with it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=ROOT / "build" / "docs")
    parser.add_argument("--package", default="qkv")
    parser.add_argument("--no-source", action="store_true", help="docstrings alone: it takes half the time")
    options = parser.parse_args()
    wrong = render(options.package, options.directory, source=not options.no_source)
    print(*wrong or [f"{options.directory}/index.html"], sep="\n", file=sys.stderr if wrong else sys.stdout)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
