"""Lay out the English and German sides of Multi30k (Elliott et al. 2016) as the recipes look for them.

    git clone --depth 1 https://github.com/multi30k/dataset multi30k-dataset
    python recipes/data/multi30k.py multi30k-dataset data/multi30k

Raw text goes to train, val and test2016 (.en, .de), the official lower-cased and tokenised files to the same names
below tok/. The captions are for research and education only, says the data set's README: ship neither them nor weights
trained on them.
"""

import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

from qkv.errors import UserError
from qkv.files import write_bytes

PARTS = {"train": "train", "val": "val", "test_2016_flickr": "test2016"}


def write(dataset: Path, directory: Path) -> list[Path]:
    """Copy what is needed of a clone of the data set; the files written."""
    written = []
    for theirs, ours in PARTS.items():
        for side in ("en", "de"):
            raw = dataset / "data" / "task1" / "raw" / f"{theirs}.{side}.gz"
            tokenised = dataset / "data" / "task1" / "tok" / f"{theirs}.lc.norm.tok.{side}"
            try:
                contents = {"": gzip.decompress(raw.read_bytes()), "tok": tokenised.read_bytes()}
            except (OSError, EOFError) as error:
                raise UserError(f"{dataset}: not a clone of github.com/multi30k/dataset ({error})") from None
            for folder, content in contents.items():
                written.append(directory / folder / f"{ours}.{side}")
                write_bytes(written[-1], content)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; 2 if the clone is not one."""
    try:
        dataset, directory = map(Path, sys.argv[1:] if arguments is None else arguments)
    except ValueError:
        print("usage: multi30k.py CLONE DIRECTORY", file=sys.stderr)
        return 2
    try:
        for path in write(dataset, directory):
            print(path)
    except UserError as error:
        print(f"multi30k.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
