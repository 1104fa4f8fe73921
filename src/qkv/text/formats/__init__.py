"""The formats of files that hold pairs by the name that recipes use, each in a file of its own."""

from qkv.registry import Registry
from qkv.text.formats.contract import Format

FORMATS: Registry[Format] = Registry(
    "format",
    {
        "tsv": "qkv.text.formats.tsv:TSV",
        "jsonl": "qkv.text.formats.jsonl:JSONL",
        "parquet": "qkv.text.formats.parquet:PARQUET",
    },
)
