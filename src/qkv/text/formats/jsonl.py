"""JSON Lines: an object a line, source and target under two of its keys."""

import json
from collections.abc import Iterator
from pathlib import Path

from qkv.errors import UserError
from qkv.text.formats.contract import Format
from qkv.text.lines import lines_of


def _read(path: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines_of(path), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: a JSON object is needed, found {line.strip()[:40]!r}")
        for key in (source, target):
            if not isinstance(record.get(key), str):
                found = f"keys: {', '.join(record)}" if key not in record else f"it is {record[key]!r}"
                raise UserError(f"{path}:{number}: no text under the key {key!r} ({found})")
        pair = record[source], record[target]
        try:
            "".join(pair).encode("utf-8")
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no character
            raise UserError(f"{path}:{number}: a lone surrogate (\\ud800 to \\udfff) is not text") from None
        yield pair


JSONL = Format((".jsonl",), _read)
