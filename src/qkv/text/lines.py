"""Lines of UTF-8 text; a fault in a file is a `UserError` that names the file and the line."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from qkv.errors import UserError
from qkv.text.compression import kind_of, opened

_OTHER_MARKS = {  # the longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def check_readable(path: Path) -> None:
    """Refuse a file that cannot be read before anything is done with it."""
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def lines_of(path: Path, *, lone_cr: bool = False) -> Iterator[str]:
    """The lines of a file, which may be compressed, without their line ends, one at a time; see `decoded`."""
    with opened(path) as file:
        yield from decoded(file, str(path), lone_cr=lone_cr)


def decoded(file: Iterable[bytes], name: str, *, lone_cr: bool = True) -> Iterator[str]:
    """Lines of bytes as text, without their line ends; `name` is what a fault is reported under. See `text_of`."""
    # Bytes are split at "\n" alone: str.splitlines would also split at form feeds, U+2028 and others.
    for number, line in enumerate(file, start=1):
        yield text_of(line, number, name, lone_cr=lone_cr)


def text_of(line: bytes, number: int, name: str, *, lone_cr: bool = True) -> str:
    r"""One line of bytes as text, without its line end: "\n", and carriage returns before it.

    Args:
        line: as it was read.
        number: counted from 1; the first may begin with a byte order mark.
        name: of what it comes from, for messages.
        lone_cr: whether a carriage return may stand within it. Where they end the lines of a corpus, all would be one.

    Raises:
        UserError: if it is not UTF-8.
    """
    if number == 1:
        _refuse_other_kinds(line, name)
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        fault = f"byte {error.start + 1} of the line, 0x{line[error.start]:02x}"
        raise UserError(f"{name}:{number}: not valid UTF-8 ({fault}); convert it to UTF-8") from None
    text = text.removesuffix("\n").rstrip("\r")
    if not lone_cr and "\r" in text:
        raise UserError(
            rf"{name}:{number}: lone carriage returns within the line: {text.count(chr(13)):,}, the first after "
            rf"character {text.index(chr(13)):,}; if lines end with them: tr '\r' '\n' < FILE, else take them out"
        )
    return text


def _refuse_other_kinds(line: bytes, name: str) -> None:
    """What cannot be UTF-8, and says what it is."""
    if kind := kind_of(line):  # from a stream; files are unpacked
        raise UserError(f"{name}: not text, but compressed by {kind.name}; unpack it first")
    for mark, encoding in _OTHER_MARKS.items():
        if line.startswith(mark):
            raise UserError(
                f"{name}: not valid UTF-8, but {encoding}, as its byte order mark says; convert it: "
                f"iconv -f {encoding} -t UTF-8 FILE"
            )
