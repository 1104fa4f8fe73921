"""Lines of UTF-8 text; a fault in a file is a `UserError` that names the file and the line."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from qkv.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def check_readable(path: Path) -> None:
    """Refuse a file that cannot be read before anything is done with it."""
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file, without their line ends, one at a time."""
    with path.open("rb") as file:
        yield from decoded(file, str(path))


def decoded(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines of bytes as text, without their line ends; `name` is what a fault is reported under."""
    # Bytes are split at "\n" alone: str.splitlines would also split at form feeds, U+2028 and others.
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            fault = f"byte {error.start + 1} of the line, 0x{line[error.start]:02x}"
            raise UserError(f"{name}:{number}: not valid UTF-8 ({fault}); convert it to UTF-8") from None
        yield text.removesuffix("\n").removesuffix("\r")
