"""Run the tour's pages and keep the pictures that they draw: `make tour`."""

import contextlib
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOUR = Path(__file__).parent
PICTURES = TOUR / "pictures"


@dataclass(frozen=True)
class Example:
    """A block of Python, what the page says that it prints (or nothing), and what it did print."""

    code: str
    shown: str
    printed: str


def pages() -> list[Path]:
    """The numbered pages, in order. Those of zh/ have the same Python."""
    return sorted(TOUR.glob("[0-9]*.md"))


def run(page: Path, folder: Path) -> list[Example]:
    """Run a page from top to bottom, as one program whose files land in `folder`."""
    found = re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    examples, names = [], {"__name__": "tour"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for code, shown in found:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(code, str(page), "exec"), names)
            examples.append(Example(code, shown, printed.getvalue()))
    finally:
        os.chdir(before)
    return examples


def main() -> None:
    """Draw every picture anew, and name the pages whose printed output has changed."""
    for page in pages():
        with tempfile.TemporaryDirectory() as folder:
            examples = run(page, Path(folder))
            for picture in sorted(Path(folder).glob("*.svg")):
                (PICTURES / picture.name).write_bytes(picture.read_bytes())
                print(f"{page.name}: {picture.name}")
        for example in examples:
            if example.shown and example.shown != example.printed:
                print(f"{page.name} says\n{example.shown}but its code printed\n{example.printed}")


if __name__ == "__main__":
    main()
