"""Writing without ever leaving half a file behind."""

import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qkv.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or none: a reader sees the old content or the new. `UserError` if it cannot be written."""
    _write(path, [text.encode()])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """`write_text` for lines that come one by one."""
    _write(path, (f"{line}\n".encode() for line in lines))


def write_bytes(path: Path, content: bytes) -> None:
    """`write_text` for what is not text."""
    _write(path, [content])


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """`write_text` for what `to_json` makes of `content`."""
    write_text(path, to_json(content, indent=indent) + "\n")


def to_json(content: Any, *, indent: int | None = None) -> str:
    """Strict JSON, which every reader takes: a number that is not finite becomes null, as JSON has no other word."""
    return json.dumps(_finite(content), ensure_ascii=False, indent=indent, allow_nan=False)


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


def _write(path: Path, parts: Iterable[bytes]) -> None:
    with explained(path):
        if path.exists() and not path.is_file():  # a device or a pipe, like /dev/null: nothing to replace
            with open(path, "wb") as file:
                file.writelines(parts)
            return
        path = path.resolve()  # a link stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            with open(temporary, "xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _beside(path: Path) -> Path:
    """A name that nobody has, in the same directory; `remove_leftovers` knows it by its form."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which takes its name only when it is complete and on the disk.

    An older directory of that name is replaced. If the block raises, nothing is left and the old one stands.
    An OSError (the disk is full, say) is the caller's to explain, who knows best what it means.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = _locked_directory(path)
    try:
        yield temporary
        for made in (*temporary.rglob("*"), temporary):
            _sync(made)
        old = _beside(path)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _sync(path.parent)
        if old.exists():
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked_directory(path: Path) -> tuple[Path, int]:
    """A new directory beside `path`, and the lock that tells `remove_leftovers` that somebody fills it."""
    while True:
        temporary = _beside(path)
        temporary.mkdir()
        with suppress(FileNotFoundError):  # removed as a left-over before it was locked
            lock = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: there, nothing counts as left over
                fcntl.flock(lock, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, lock
            os.close(lock)


def remove_leftovers(directory: Path, *names: str) -> None:
    """Remove what a killed process left of directories of these names (`step-*`), but nothing that is being written."""
    for leftover in [path for name in names for path in directory.glob(f".{name}.*")]:
        with suppress(OSError):  # among others, that somebody has it locked
            lock = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(lock)


def remove_directory(path: Path) -> None:
    """It loses its name before its content, so that under its name it is never half there."""
    doomed = _beside(path)
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # what is left of it goes with other left-overs


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, replacing an older one in one step; `UserError` if it fails."""
    temporary = _beside(link)
    with explained(link):
        temporary.symlink_to(os.path.relpath(target, link.parent))
        os.replace(temporary, link)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """An OSError in the block becomes a `UserError`: that `path` cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
