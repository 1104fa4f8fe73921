"""One process trains a run at a time: two would spoil each other's checkpoints and records."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from qkv.errors import UserError
from qkv.files import explained
from qkv.run.directory import Run


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """While it is entered, nobody else trains this run; its directory is made if need be.

    The lock is the operating system's, so that it ends with the process however that comes, `kill -9` included. Where
    the file system knows no locks (some network drives), there is none.

    Raises:
        UserError: if another process trains it, which is named; or if the directory cannot be written.
    """
    with explained(run.path):
        new = [path for path in (run.path, *run.path.parents) if not path.exists()]
        run.path.mkdir(parents=True, exist_ok=True)
        while not _is_there(file := _lock(run), run):  # whoever had it before has just removed it
            file.close()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    try:
        yield
    finally:
        if _is_there(file, run):
            run.lock_path.unlink()
        file.close()
        with suppress(OSError):  # it is not empty: something came of the run
            for path in new:
                path.rmdir()


def _lock(run: Run) -> IO[str]:
    file = run.lock_path.open("a+", encoding="utf-8")
    with suppress(OSError):  # no locks here
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise UserError(f"{run.path}: {holder} is training this run; wait for it, or stop it first") from None
    return file


def _is_there(file: IO[str], run: Run) -> bool:
    """Whether this is the lock that others find; a file may be removed while it is open."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), run.lock_path.stat())
    except FileNotFoundError:
        return False
