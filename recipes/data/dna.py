"""Write coding DNA → protein under the standard genetic code: generated genes to learn from, real ones to test on.

    python recipes/data/dna.py data/dna

Each line is a coding sequence, a tab, and its protein, a letter per residue, "*" for the stop codon:

    ATGGCATAA	MA*

Real genes come from the GenBank and EMBL records among the tests of Biopython's source distribution, which pip
downloads (or give one with --archive). They are some 130, too few to train on. So TRAINING AND VALIDATION PAIRS ARE
GENERATED: amino acids by a composition drawn anew for each gene, codons by the real codon usage of nine organisms
(Kazusa's tables, in the PyPI package python-codon-tables). No real gene is ever trained on.

    train.tsv, validation.tsv   generated genes, cut into windows of 1 to 30 codons, most of them short
    test.tsv                    all real genes, cut into windows of 1 to 30 codons, each length as often as another
    windows-60.tsv              the same genes in windows of 31 to 60 codons: longer than anything in training
    genes-60.tsv, genes-120.tsv, genes-240.tsv, genes-480.tsv
                                real genes, whole, of at most so many codons (and more than the file before)
    genes.tsv                   the real genes: organism, record, length, sequence
    LICENCES                    where all this is from

Windows are of whole codons, but only the first of a gene begins with ATG, and only the last ends with a stop codon.
"""

import argparse
import io
import random
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qkv.errors import UserError
from qkv.files import new_directory

if TYPE_CHECKING:
    from Bio.SeqFeature import SeqFeature
    from Bio.SeqRecord import SeqRecord

TRAINING_WINDOWS = 50_000
VALIDATION_WINDOWS = 1_000
TRAINED = range(1, 31)
"""Codons of a window that is trained on, or like those."""
LONGER = range(31, 61)
"""Codons of the windows that show what happens just beyond."""
GENERATED_GENE = (20, 500)
"""The fewest and the most codons of a generated gene, before it is cut."""
BUCKETS = (60, 120, 240, 480)
"""Whole genes are tested by length: up to so many codons, the stop included."""

FORMATS = {".gb": "genbank", ".gbk": "genbank", ".seq": "genbank", ".embl": "embl"}
STANDARD_CODE = ("1", "11")
"""NCBI's translation tables that give every codon its standard meaning: 11 (bacteria, plastids) differs from 1 in
what may start a gene, and a gene that makes use of that fails the comparison with the recorded protein."""
MADE_BY_MAN = ("synthetic", "Cloning vector")
"""What the organism of engineered DNA begins with."""

Usage = dict[str, dict[str, float]]
"""Amino acid ("*": stop) → codon → share of that amino acid's codons."""

LICENCES = """\
train.tsv, validation.tsv: generated, not found in nature. Codons follow Kazusa's usage tables of nine organisms
(kazusa.or.jp/codon; Nakamura, Gojobori and Ikemura 2000), from the PyPI package python-codon-tables {tables}
(CC0 1.0: dedicated to the public domain).

test.tsv, windows-60.tsv, genes*.tsv: {genes} genes from GenBank and EMBL records, which come with the tests of
Biopython {biopython} (source distribution on PyPI; Biopython License Agreement or BSD 3-Clause). The international
collaboration that runs these databases (INSDC) puts no restriction on the use of its records. genes.tsv names them.

Written by qkv's recipes/data/dna.py, seed {seed}.
"""


class Gene(NamedTuple):
    """A coding sequence from a record.

    Attributes:
        dna: its codons, exons joined, stop codon included.
        protein: a letter per codon, "*" for the stop.
        organism: as the record says.
        record: the record's accession.
    """

    dna: str
    protein: str
    organism: str
    record: str


def translate(dna: str) -> str:
    """The protein of whole codons under the standard code, "*" for a stop codon."""
    from Bio.Seq import translate as standard

    return str(standard(dna))


# Real genes


def real_genes(archive: Path) -> list[Gene]:
    """Every usable gene in the records of Biopython's source distribution, each sequence once.

    Raises:
        UserError: the archive cannot be read or has no gene in it.
    """
    genes: dict[str, Gene] = {}
    try:
        for name, text in _record_files(archive):
            for record in _records(text, FORMATS[Path(name).suffix]):
                for gene in genes_of(record):
                    genes.setdefault(gene.dna, gene)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{archive}: cannot be read as a source distribution ({error})") from None
    if not genes:
        raise UserError(f"{archive}: no gene in it; Biopython's source distribution is wanted")
    return list(genes.values())


def genes_of(record: "SeqRecord") -> Iterator[Gene]:
    """The coding sequences that are complete, of the standard code, and translate to the recorded protein."""
    organism = record.annotations.get("organism", "unknown")
    if organism.startswith(MADE_BY_MAN):
        return
    for feature in record.features:
        if feature.type == "CDS" and _says_standard(feature.qualifiers):
            dna = _coding_sequence(feature, record)
            if dna and translate(dna) == feature.qualifiers["translation"][0] + "*":
                yield Gene(dna, translate(dna), organism, record.id)


def _says_standard(qualifiers: Mapping[str, Sequence[str]]) -> bool:
    odd = qualifiers.keys() & {"pseudo", "pseudogene", "transl_except"}
    table, start = qualifiers.get("transl_table", ["1"])[0], qualifiers.get("codon_start", ["1"])[0]
    return "translation" in qualifiers and not odd and table in STANDARD_CODE and start == "1"


def _coding_sequence(feature: "SeqFeature", record: "SeqRecord") -> str:
    """The feature's strand with its exons joined; empty if that is not to be had or is not whole plain codons."""
    from Bio.Seq import UndefinedSequenceError

    try:
        dna = str(feature.extract(record.seq)).upper()
    except (ValueError, UndefinedSequenceError):  # it reaches into another record, or the record has no sequence
        return ""
    return dna if len(dna) % 3 == 0 and set(dna) <= set("ACGT") else ""


def _record_files(archive: Path) -> Iterator[tuple[str, str]]:
    """Name and text of the record files among Biopython's tests, in the order of their names."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if "/Tests/" in member.name and Path(member.name).suffix in FORMATS and (file := tar.extractfile(member)):
                yield member.name, file.read().decode("utf-8", errors="replace")


def _records(text: str, kind: str) -> Iterator["SeqRecord"]:
    """The records of a file, up to the first fault: some are there to test that faults are found."""
    from Bio import BiopythonParserWarning, SeqIO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiopythonParserWarning)
        try:
            yield from SeqIO.parse(io.StringIO(text), kind)
        except ValueError:
            return


# Generated genes


def generated_genes(tables: Sequence[Usage], chance: random.Random) -> Iterator[str]:
    """Endless coding sequences: ATG, amino acids, each with a codon as one organism chooses it, a stop codon.

    A gene's amino-acid composition is drawn from a flat Dirichlet distribution. Real proteins are lopsided too, and a
    model learns that: it begins with which residues are there and goes on to where.
    """
    residues = sorted(tables[0].keys() - {"*"})
    while True:
        usage = chance.choice(tables)
        length = chance.randint(*GENERATED_GENE)
        composition = [chance.expovariate(1.0) for _ in residues]
        protein = [*chance.choices(residues, composition, k=length - 2), "*"]
        yield "ATG" + "".join(chance.choices(list(usage[aa]), list(usage[aa].values()))[0] for aa in protein)


def cut(dna: str, chance: random.Random, lengths: range = TRAINED, shortness: float = 0.0) -> list[str]:
    """A gene in pieces of whole codons, the last as short as it comes.

    Args:
        dna: whole codons.
        chance: where lengths are drawn from.
        lengths: in codons.
        shortness: n codons have a chance proportional to n^-shortness.
    """
    weights = [n**-shortness for n in lengths]
    ends = [0]
    while ends[-1] < len(dna):
        ends.append(min(ends[-1] + 3 * chance.choices(lengths, weights)[0], len(dna)))
    return [dna[start:end] for start, end in pairwise(ends)]


def generated_windows(
    tables: Sequence[Usage], count: int, held_out: Collection[str], chance: random.Random
) -> list[str]:
    """Windows of generated genes, each once and none of those held out."""
    windows: dict[str, None] = {}
    for gene in generated_genes(tables, chance):
        windows |= dict.fromkeys(window for window in cut(gene, chance, shortness=1.0) if window not in held_out)
        if len(windows) >= count:
            return list(windows)[:count]
    raise AssertionError("generated genes do not end")


# Files


def sequences(genes: Sequence[Gene], tables: Sequence[Usage], seed: int) -> dict[str, list[str]]:
    """The coding sequences of each file but `genes.tsv`: a function of the genes, the tables and the seed."""
    chance = random.Random(seed)
    test = list(dict.fromkeys(window for gene in genes for window in cut(gene.dna, chance)))
    windows = generated_windows(tables, TRAINING_WINDOWS + VALIDATION_WINDOWS, set(test), chance)
    files = {"train": windows[VALIDATION_WINDOWS:], "validation": windows[:VALIDATION_WINDOWS], "test": test}
    longer = (window for gene in genes for window in cut(gene.dna, chance, LONGER))
    files[f"windows-{LONGER[-1]}"] = [window for window in dict.fromkeys(longer) if len(window) // 3 in LONGER]
    for shorter, longest in pairwise((0, *BUCKETS)):
        files[f"genes-{longest}"] = [gene.dna for gene in genes if shorter < len(gene.protein) <= longest]
    return files


def write(directory: Path, files: Mapping[str, Iterable[str]], genes: Iterable[Gene], licences: str) -> None:
    """Write all files to `directory`, or, on any failure, nothing."""
    with new_directory(directory) as finished:
        for name, dna in files.items():
            lines = (f"{sequence}\t{translate(sequence)}\n" for sequence in dna)
            (finished / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
        rows = (f"{gene.organism}\t{gene.record}\t{len(gene.protein)} codons\t{gene.dna}\n" for gene in genes)
        (finished / "genes.tsv").write_text("".join(rows), encoding="utf-8")
        (finished / "LICENCES").write_text(licences, encoding="utf-8")


def usage_tables() -> list[Usage]:
    """Kazusa's tables as the package has them, by name."""
    import python_codon_tables

    names = sorted(python_codon_tables.available_codon_tables_names)
    return [python_codon_tables.get_codons_table(name) for name in names]


def versions() -> dict[str, str]:
    """The installed versions of Biopython and of the usage tables.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        return {"biopython": metadata.version("biopython"), "tables": metadata.version("python-codon-tables")}
    except metadata.PackageNotFoundError:
        raise UserError(
            "Biopython or the codon tables are not installed. Install them: pip install 'qkv[dna]'"
        ) from None


def download(version: str, directory: Path) -> Path:
    """Have pip download Biopython's source distribution (20 MB).

    Raises:
        UserError: pip failed.
    """
    wanted = ["--no-deps", "--no-binary", ":all:", f"biopython=={version}"]
    pip = [sys.executable, "-m", "pip", "--quiet", "download", *wanted, "--dest", str(directory)]
    result = subprocess.run(pip, capture_output=True, text=True)
    archives = list(directory.glob("*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        reason = (result.stderr.strip().splitlines() or ["no archive came"])[-1]
        raise UserError(f"pip cannot download Biopython's source distribution ({reason}); give one with --archive")
    return archives[0]


def main(arguments: list[str] | None = None) -> int:
    """Write the files and say what they hold."""
    parser = argparse.ArgumentParser(description="Write coding DNA and its proteins: generated to train, real to test.")
    parser.add_argument("directory", type=Path, help="where to write; must not exist yet")
    parser.add_argument("--archive", type=Path, help="Biopython's source distribution; default: pip downloads it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (UserError, OSError) as error:
        print(f"dna.py: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: Any) -> None:
    directory = options.directory
    if directory.exists():
        raise UserError(f"{directory} exists already: remove it, or choose another place")
    installed = versions()
    with tempfile.TemporaryDirectory() as temporary:
        genes = real_genes(options.archive or download(installed["biopython"], Path(temporary)))
    files = sequences(genes, usage_tables(), options.seed)
    write(directory, files, genes, LICENCES.format(genes=len(genes), seed=options.seed, **installed))
    print(f"{len(genes)} real genes of {len({gene.organism for gene in genes})} organisms")
    for name, dna in files.items():
        print(f"{directory / name}.tsv: {len(dna):,} pairs, {sum(map(len, dna)) // 3:,} codons")


if __name__ == "__main__":
    sys.exit(main())
