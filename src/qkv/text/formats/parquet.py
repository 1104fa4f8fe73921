"""Parquet: source and target are two of its columns. Needs pyarrow."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from qkv.errors import UserError
from qkv.text.compression import opened
from qkv.text.formats.contract import Format


def _read(path: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading Parquet needs pyarrow; run: pip install 'qkv[parquet]'") from None
    with opened(path) as content, TemporaryFile() as unpacked:
        packed = not isinstance(content, io.BufferedReader)
        if packed:  # it is read from its end, and here and there
            shutil.copyfileobj(content, unpacked)
        try:
            file = pyarrow.parquet.ParquetFile(unpacked if packed else path)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not a Parquet file ({error})") from None
        with file:
            columns = file.schema_arrow.names
            for column in (source, target):
                if column not in columns:
                    raise UserError(f"{path}: no column {column!r}; its columns are {', '.join(columns)}")
            row = 0
            for batch in file.iter_batches(columns=list({source, target})):
                for pair in zip(batch.column(source).to_pylist(), batch.column(target).to_pylist(), strict=True):
                    row += 1
                    if not all(isinstance(text, str) for text in pair):
                        raise UserError(f"{path}: row {row}: text needed in {source!r} and {target!r}, found {pair}")
                    yield pair


PARQUET = Format((".parquet",), _read)
