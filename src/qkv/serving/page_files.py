"""The inspector's page: the files that lie in `qkv/serving/page`, and nothing else."""

from dataclasses import dataclass
from importlib.resources import files

# Not left to the machine's table of types: some call a script plain text, which browsers then refuse to run.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent.

    Attributes:
        content: its bytes.
        media_type: the value of Content-Type.
    """

    content: bytes
    media_type: str


def page_files() -> dict[str, PageFile]:
    """All files of the page by name. What is not a key is not served, so no path leads anywhere else."""
    found = {}
    for file in files("qkv.serving").joinpath("page").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            found[file.name] = PageFile(file.read_bytes(), _TYPES[suffix])
    return found
