"""A measured system as a process of its own: started, asked, and stopped."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent


class SystemFailed(Exception):
    """A system stopped before it answered; the message is the end of its log."""


@dataclass
class System:
    """One system under one name in the results.

    Attributes:
        name: as in the results.
        script: the file beside this one that drives it.
        python: of the environment that it lives in.
        options: what the script is told.
        threads: for OpenMP and its like.
        about: how it was driven, for the report.
        environment: variables of its own.
        peak_mb: the most memory it has held so far, MB.
        versions: of the libraries in it.
    """

    name: str
    script: str
    python: Path
    options: dict[str, Any]
    threads: int
    about: str
    environment: dict[str, str] = field(default_factory=dict)
    peak_mb: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None
    _log: IO[str] | None = None

    def start(self, scratch: Path) -> None:
        """Start it and wait until it is ready.

        Raises:
            SystemFailed: if it does not get so far.
        """
        options = scratch / f"{self.name}.json"
        options.write_text(json.dumps(self.options, indent=1), encoding="utf-8")
        self._log = (scratch / f"{self.name}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(self.python), str(HERE / self.script), str(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=scratch,
            env=environment(self.threads) | self.environment,
            text=True,
        )
        self.versions = self._answer()["versions"]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What the process answers; `SystemFailed` if it does not."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer()

    def stop(self) -> None:
        """End the process, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._log is not None:
            self._log.close()
        self._process = self._log = None

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        self.peak_mb = max(self.peak_mb, answer.pop("peak_mb"))
        return answer

    def _failure(self) -> SystemFailed:
        assert self._process is not None
        assert self._log is not None
        code = self._process.wait()
        self._log.seek(0)
        said = [line.strip() for line in self._log if line.strip()]
        return SystemFailed(said[-1] if said else f"ended with code {code}")


@contextmanager
def noting(system: System, failed: dict[str, str]) -> Iterator[None]:
    """Catch a system's failure, say so and remember it under its name."""
    try:
        yield
    except SystemFailed as error:
        failed[system.name] = str(error)
        print(f"    {system.name}: failed ({error})", flush=True)


def environment(threads: int) -> dict[str, str]:
    """The same for all: so many threads, no network, and a malloc that keeps freed memory.

    A step frees and asks for the same large tensors over and over. By default glibc hands them back to the system and
    clears their pages anew; how often depends on luck, and it is no system's merit or fault. There is one arena, so
    that this holds for memory asked for by any thread.
    """
    keep = {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
        "MALLOC_TOP_PAD_": "67108864",
        "MALLOC_ARENA_MAX": "1",
    }
    path = os.pathsep.join(filter(None, [str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH")]))
    return (
        os.environ
        | keep
        | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
