"""Compressed files, read as if they were not; which kind one is, its first bytes tell."""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO

from qkv.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of compression: the regular expression that it begins with, and the modules that may read it."""

    name: str
    first_bytes: bytes
    modules: tuple[str, ...]


# By their suffix. No UTF-8 text begins with these bytes; bzip2's are letters, hence so many of them.
_KINDS = {
    ".gz": Kind("gzip", rb"\x1f\x8b", ("gzip",)),
    ".bz2": Kind("bzip2", rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", ("bz2",)),
    ".xz": Kind("xz", rb"\xfd7zXZ\x00", ("lzma",)),
    ".zst": Kind("Zstandard", rb"\x28\xb5\x2f\xfd", ("compression.zstd", "backports.zstd")),
}
_LONGEST = 10


def plain_suffix(path: str | Path) -> str:
    """The suffix that tells a file's format, in lower case: .tsv of `pairs.tsv` and of `pairs.tsv.gz`."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() in _KINDS else path.name).suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked if it is compressed, under whatever name; it is read in one pass, as a pipe can be.

    Raises:
        UserError: if it is damaged or cut off, not of the kind that its name says, or of one that needs a package.
    """
    with path.open("rb") as file:
        kind = kind_of(file.peek(_LONGEST))
        if kind is None:
            if said := _KINDS.get(path.suffix.lower()):
                raise UserError(f"{path}: not {said.name}, as its name says; it is damaged, or has the wrong suffix")
            yield file
            return
        module = _module(kind, path)
        faults = [getattr(module, name, EOFError) for name in ("LZMAError", "ZstdError")]
        try:
            with module.open(file, "rb") as content:
                yield content
        except (EOFError, OSError, zlib.error, *faults) as error:
            raise UserError(f"{path}: damaged or cut off; {kind.name} cannot be unpacked ({error})") from None


def kind_of(first_bytes: bytes) -> Kind | None:
    """What the beginning of a file says that it is compressed by; None if by nothing."""
    return next((kind for kind in _KINDS.values() if re.match(kind.first_bytes, first_bytes)), None)


def _module(kind: Kind, path: Path) -> ModuleType:
    for name in kind.modules:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise UserError(f"{path}: reading {kind.name} needs a package; run: pip install 'qkv[zstd]', or unpack it first")
