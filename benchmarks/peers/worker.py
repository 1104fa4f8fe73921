"""What every measured process shares: it answers commands, one JSON object a line, and otherwise sleeps.

A script builds its model once, from the options that its command line names, and then does what it is asked, so that
the systems can take turns while all of them are warm. Runs in the project's environment and in the peers' alike, so it
imports nothing of either.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., dict[str, Any]]


def serve(build: Callable[[dict[str, Any]], dict[str, Command]]) -> None:
    """Build from the options file, then answer: {"command": NAME, …arguments} → the command's result.

    The answer carries `peak_mb` besides, the most memory that the process ever held, in MB (2**20 bytes). Whatever
    else the process prints goes to its log.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(result: dict[str, Any]) -> None:
        answers.write(json.dumps(result | {"peak_mb": peak_mb()}) + "\n")
        answers.flush()

    commands = build(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    answer({"versions": versions()})
    for line in sys.stdin:
        request = json.loads(line)
        answer(commands[request.pop("command")](**request))


def peak_mb() -> int:
    """The most memory this process ever held. (What getrusage says counts its parent's before exec, too.)"""
    status = Path("/proc/self/status").read_text("utf-8")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def training(step: Callable[[], tuple[int, float]]) -> dict[str, Command]:
    """The commands of a training process.

    Args:
        step: takes the next batch, makes one whole step of it (reading, forward, backward, optimizer) and returns its
            real target tokens (padding not counted, end of sentence counted) and its loss per token.
    """

    def train(seconds: float, steps: int) -> dict[str, Any]:
        """Whole steps for so many seconds, but at least `steps`."""
        began, tokens, done, loss = time.perf_counter(), 0, 0, 0.0
        while done < steps or time.perf_counter() - began < seconds:
            counted, loss = step()
            tokens, done = tokens + counted, done + 1
        return {"tokens": tokens, "steps": done, "loss": loss, "seconds": time.perf_counter() - began}

    return {"train": train}


def decoding(
    translate: Callable[[list[str], int, int], list[str]],
    candidates: list[int],
    one: Callable[[str, int, int], str],
    arrangements: list[int],
) -> dict[str, Command]:
    """The commands of a decoding process.

    Args:
        translate: sources, beam and a batch size, in the system's own measure; gives the outputs in order.
        candidates: the batch sizes to choose from.
        one: a source, beam and a number of threads; gives its output. What a service does with a single request.
        arrangements: the numbers of threads to choose from for `one`.
    """

    def batch(sources: list[str], beam: int, size: int) -> dict[str, Any]:
        """Translate all sources at once."""
        began = time.perf_counter()
        outputs = translate(sources, beam, size)
        return {"seconds": time.perf_counter() - began, "outputs": outputs}

    def latency(sources: list[str], beam: int, threads: int) -> dict[str, Any]:
        """Translate source after source; milliseconds of each."""
        milliseconds = []
        for source in sources:
            began = time.perf_counter()
            one(source, beam, threads)
            milliseconds.append(1000 * (time.perf_counter() - began))
        return {"milliseconds": milliseconds}

    def choices() -> dict[str, Any]:
        return {"batch_sizes": candidates, "threads": arrangements}

    return {"batch": batch, "latency": latency, "choices": choices}


def versions() -> dict[str, str]:
    """Python and what the process has imported of the libraries compared."""
    names = ("torch", "qkv", "transformers", "eole", "joeynmt", "ctranslate2")
    found = {
        name: getattr(sys.modules[name], "__version__", None) or _installed(name)
        for name in names
        if name in sys.modules
    }
    return {"python": sys.version.split()[0]} | found


def _installed(name: str) -> str:
    from importlib.metadata import version

    return version(name)
