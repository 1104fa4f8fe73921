"""What a person sees while something runs: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

_LOG_SECONDS = 30.0


def spoken_time(seconds: float) -> str:
    """12 s, 3:05 min or 2:07 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02d} min"
    return f"{seconds // 3600}:{seconds // 60 % 60:02d} h"


class _Listener:
    """Standard error, which may be closed or a pipe that nobody reads any more: then nothing is said, nothing fails."""

    def __init__(self) -> None:
        self.stream = sys.stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __eq__(self, other: object) -> bool:  # tqdm knows by this what shares a screen with its bars
        return self.stream is getattr(other, "stream", other)

    def isatty(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.flush()


def tell(text: str) -> None:
    """A line that stays on standard error, above any bar; where nobody reads it, nothing happens."""
    tqdm.write(text, file=_Listener())


@contextmanager
def bar(
    total: int | None, unit: str, show: bool = True, *, what: str | None = None, delay: float = 0.0
) -> Iterator[Callable[..., None]]:
    """A bar on standard error, or a counter where the total is None; nothing if that is no terminal.

    It yields `advance(count, what=None)`, which moves it on, and tells what is being done from now on.
    """
    with tqdm(
        total=total,
        unit=f" {unit}",
        desc=what,
        delay=delay,
        leave=total is not None,
        disable=None if show else True,
        file=_Listener(),
    ) as shown:

        def advance(count: int, what: str | None = None) -> None:
            if what is not None:
                shown.set_description(what)
            shown.update(count)

        yield advance


class TrainingProgress:
    """Loss, speed and time left; `share` of the run (0 … 1) lies behind already, when resuming."""

    def __init__(self, enabled: bool = True, share: float = 0.0):
        self._enabled, self._first_share, self._began, self._logged = enabled, share, time.monotonic(), 0.0
        form, hidden = "{percentage:3.0f}% |{bar}| {desc}", None if enabled else True  # None: unless on a terminal
        self._bar = tqdm(
            total=1.0, initial=share, disable=hidden, bar_format=form, dynamic_ncols=True, file=_Listener()
        )

    def update(self, share: float, step: int, loss: float, tokens_per_second: float) -> None:
        """Show where training stands."""
        done, seconds = share - self._first_share, time.monotonic() - self._began
        left = spoken_time(seconds * max(0.0, 1.0 - share) / done) if done > 0 else "?"
        text = f"step {step:,}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  {left} left"
        if not self._bar.disable:
            self._bar.set_description_str(text, refresh=False)
            self._bar.n = min(1.0, share)
            self._bar.refresh()
        elif self._enabled and time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            self.say(f"{100 * share:3.0f}%  {text}")

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._enabled:
            tell(text)

    def close(self) -> None:
        """Take the bar off the screen's last line."""
        self._bar.close()
