"""Checksums: a byte that has changed on the disk, or on the way to another machine, is noticed when it is read."""

import json
from pathlib import Path

from qkv.errors import UserError
from qkv.files import digest, to_json

MANIFEST = "manifest.json"


def write_manifest(directory: Path) -> None:
    """Write down the checksum of every file in a directory; it is the last thing written to it."""
    sums = {path.name: digest(path) for path in sorted(directory.iterdir())}
    (directory / MANIFEST).write_text(to_json({"sha256": sums}, indent=1) + "\n", encoding="utf-8")


def verify(path: Path) -> None:
    """Check a file against the manifest beside it. Directories of before manifests have none, and pass.

    Raises:
        UserError: if the file is not what was written, or the manifest cannot be read; OSError if it is missing.
    """
    manifest = path.parent / MANIFEST
    if not manifest.exists():
        return
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"].get(path.name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{manifest}: damaged; it does not hold checksums") from None
    if expected != digest(path):
        raise UserError(
            f"{path}: cannot be read: it is damaged, as its checksum is not the one in {MANIFEST}; copy it anew, "
            "or do without it"
        )
