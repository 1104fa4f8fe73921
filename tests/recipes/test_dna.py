"""The script is loaded by its path, as users run it: it is no part of the package."""

import importlib.util
import io
import random
import subprocess
import tarfile
from collections import Counter
from importlib import metadata
from itertools import islice
from pathlib import Path

import pytest
from Bio.Seq import Seq
from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from qkv.config.loading import load_config
from qkv.errors import UserError
from qkv.nn.architectures import ARCHITECTURES

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("dna_recipe", RECIPES / "data" / "dna.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small(script, monkeypatch):
    """The script, writing few pairs."""
    monkeypatch.setattr(script, "TRAINING_WINDOWS", 300)
    monkeypatch.setattr(script, "VALIDATION_WINDOWS", 20)
    return script


def coding(location, protein, **qualifiers):
    return SeqFeature(location, "CDS", qualifiers={"translation": [protein], **qualifiers})


def record_of(dna, features, organism="Homo sapiens", name="X1"):
    annotations = {"molecule_type": "DNA", "organism": organism}
    return SeqRecord(Seq(dna), id=f"{name}.1", name=name, annotations=annotations, features=features)


def archive_of(path, files):
    """A source distribution with these files: records, or text as it is."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            text = content if isinstance(content, str) else content.format("genbank")
            data = text.encode()
            member = tarfile.TarInfo(f"biopython-9.9/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def whole(dna, protein, **kind):
    return record_of(dna, [coding(SimpleLocation(0, len(dna), 1), protein)], **kind)


# Real genes


def test_exons_are_joined_and_the_other_strand_is_reversed(script):
    # ATGGCA and TAA with two bases between; and the same on the other strand: TTA, two bases, TGCCAT.
    forward = CompoundLocation([SimpleLocation(1, 7, 1), SimpleLocation(9, 12, 1)])
    backward = CompoundLocation([SimpleLocation(18, 24, -1), SimpleLocation(13, 16, -1)])
    record = record_of("CATGGCAGGTAACTTAGGTGCCATC", [coding(forward, "MA"), coding(backward, "MA")])
    genes = list(script.genes_of(record))
    assert genes == [script.Gene("ATGGCATAA", "MA*", "Homo sapiens", "X1.1")] * 2


@pytest.mark.parametrize(
    ("dna", "protein", "qualifiers"),
    [
        ("ATGGCATAA", "MA", {"pseudo": [""]}),
        ("ATGGCATAA", "MA", {"pseudogene": ["unitary"]}),
        ("ATGGCATAA", "MA", {"transl_except": ["(pos:4..6,aa:OTHER)"]}),
        ("ATGGCATAA", "MA", {"transl_table": ["2"]}),
        ("ATGGCATAA", "MA", {"codon_start": ["2"]}),
        ("ATGGCATAA", "MV", {}),
        ("ATGGCA", "MA", {}),  # no stop codon
        ("ATGTAAGCATAA", "MA", {}),
        ("ATGGCATA", "MA", {}),
        ("ATGGCNTAA", "MA", {}),
        ("GTGGCATAA", "MA", {"transl_table": ["11"]}),  # a start codon that elsewhere is V
    ],
)
def test_genes_that_the_plain_code_does_not_explain_are_left_out(script, dna, protein, qualifiers):
    feature = coding(SimpleLocation(0, len(dna), 1), protein, **qualifiers)
    assert list(script.genes_of(record_of(dna, [feature]))) == []


def test_what_is_left_out_is_only_that(script):
    qualifiers = {"transl_table": ["11"], "codon_start": ["1"], "product": ["a protein"]}
    feature = coding(SimpleLocation(0, 9, 1), "MA", **qualifiers)
    assert [gene.dna for gene in script.genes_of(record_of("atggcataa", [feature]))] == ["ATGGCATAA"]
    for engineered in ("synthetic DNA construct", "Cloning vector pAL-F"):
        assert list(script.genes_of(record_of("ATGGCATAA", [feature], organism=engineered))) == []
    unknown = SeqRecord(Seq(None, 9), id="X2", features=[feature])
    assert list(script.genes_of(unknown)) == []


def test_an_archive_gives_each_sequence_once_in_the_order_of_file_names(script, tmp_path):
    files = {
        "Tests/GenBank/b.gb": whole("ATGGTATAA", "MV", name="B"),
        "Tests/GenBank/a.gbk": whole("ATGGCATAA", "MA", name="A"),
        "Tests/GenBank/c.gb": whole("ATGGCATAA", "MA", name="C"),
        "Tests/GenBank/d.txt": whole("ATGAAATAA", "MK", name="D"),
        "Doc/e.gb": whole("ATGTGGTAA", "MW", name="E"),
        "Tests/GenBank/faulty.gb": whole("ATGCGATAA", "MR", name="F").format("genbank") + "LOCUS\nnonsense\n",
    }
    genes = script.real_genes(archive_of(tmp_path / "biopython.tar.gz", files))
    assert [(gene.record, gene.protein) for gene in genes] == [("A.1", "MA*"), ("B.1", "MV*"), ("F.1", "MR*")]


def test_what_is_no_archive_of_genes_is_refused(script, tmp_path):
    with pytest.raises(UserError, match="no gene in it"):
        script.real_genes(archive_of(tmp_path / "empty.tar.gz", {"Tests/a.gb": ""}))
    (tmp_path / "text.tar.gz").write_text("no archive")
    for name in ("text.tar.gz", "missing.tar.gz"):
        with pytest.raises(UserError, match=rf"{name}: cannot be read"):
            script.real_genes(tmp_path / name)


# Generated genes


def test_the_usage_tables_follow_the_standard_code(script):
    tables = script.usage_tables()
    assert len(tables) >= 8
    for usage in tables:
        assert sum(map(len, usage.values())) == 64
        assert all(script.translate(codon) == aa for aa, codons in usage.items() for codon in codons)
        assert all(sum(codons.values()) == pytest.approx(1, abs=0.02) for codons in usage.values())


def test_generated_genes_begin_with_atg_and_stop_once(script):
    for dna in islice(script.generated_genes(script.usage_tables(), random.Random(3)), 50):
        protein = script.translate(dna)
        assert dna.startswith("ATG")
        assert protein.index("*") == len(protein) - 1
        assert script.GENERATED_GENE[0] <= len(protein) <= script.GENERATED_GENE[1]


def test_generated_genes_use_codons_as_the_organism_does(script):
    usage = script.usage_tables()[0]
    genes = islice(script.generated_genes([usage], random.Random(5)), 400)
    counts = Counter(dna[i : i + 3] for dna in genes for i in range(3, len(dna), 3))
    totals = {aa: sum(counts[codon] for codon in codons) for aa, codons in usage.items()}
    for aa, codons in usage.items():
        for codon, share in codons.items():
            assert counts[codon] / totals[aa] == pytest.approx(share, abs=0.08)
    assert totals.pop("*") == 400
    assert len(totals) == 20
    assert max(totals.values()) < 1.5 * min(totals.values())


def test_windows_are_whole_codons_that_join_to_the_gene(script):
    dna = next(script.generated_genes(script.usage_tables(), random.Random(1))) * 20
    windows = script.cut(dna, random.Random(2))
    assert "".join(windows) == dna
    lengths = Counter(len(window) for window in windows)
    assert set(lengths) <= {3 * n for n in script.TRAINED}
    assert 13 < sum(n * count for n, count in lengths.items()) / 3 / len(windows) < 18
    short = script.cut(dna, random.Random(2), shortness=1.0)
    assert "".join(short) == dna
    assert len(short) > 1.3 * len(windows)


# Files


@pytest.fixture(scope="module")
def genes(script):
    return [
        script.Gene(dna, script.translate(dna), "Homo sapiens", f"X{i}")
        for i, dna in enumerate(islice(script.generated_genes(script.usage_tables(), random.Random(7)), 30))
    ]


def test_sequences_are_a_function_of_the_seed(small, genes):
    tables = small.usage_tables()
    files = small.sequences(genes, tables, 1)
    assert files == small.sequences(genes, tables, 1)
    other = small.sequences(genes, tables, 2)
    assert all(files[name] != other[name] for name in ("train", "validation", "test"))


def test_no_window_is_in_two_places(small, genes):
    # A gene of windows so short that generated genes have them all.
    common = [small.Gene("ATG" + 9 * codon + "TAA", "", "", "") for codon in ("GCA", "GCC", "AAA")]
    files = small.sequences([*common, *genes], small.usage_tables(), 1)
    parts = [files[name] for name in ("train", "validation", "test")]
    assert list(map(len, parts[:2])) == [300, 20]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_real_genes_are_tested_in_windows_and_whole_by_length(small, genes):
    files = small.sequences(genes, small.usage_tables(), 1)
    assert {len(window) // 3 for window in files["train"]} <= set(small.TRAINED)
    assert {len(window) // 3 for window in files["windows-60"]} <= set(range(31, 61))
    for window in (*files["test"], *files["windows-60"]):  # cut between codons: out of frame the protein is another
        assert any(window in gene.dna and small.translate(window) in gene.protein for gene in genes)
    for shortest, longest in ((1, 60), (61, 120), (121, 240), (241, 480)):
        expected = [gene.dna for gene in genes if shortest <= len(gene.protein) <= longest]
        assert files[f"genes-{longest}"] == expected
        assert longest == 60 or expected


def test_the_files_hold_sequences_with_their_proteins(small, tmp_path, capsys):
    gene = "ATG" + "GCATGGAAA" * 12 + "TAA"
    files = {"Tests/a.gb": whole(gene, "M" + "AWK" * 12, name="A"), "Tests/b.gb": whole("ATGGTATAA", "MV", name="B")}
    archive = archive_of(tmp_path / "biopython.tar.gz", files)
    directory = tmp_path / "new" / "dna"
    assert small.main([str(directory), "--archive", str(archive)]) == 0

    assert "2 real genes of 1 organisms" in capsys.readouterr().out
    names = ["train", "validation", "test", "windows-60", "genes-60", "genes-120", "genes-240", "genes-480"]
    assert {path.name for path in directory.iterdir()} == {*(f"{n}.tsv" for n in names), "genes.tsv", "LICENCES"}
    for name in names:
        for line in (directory / f"{name}.tsv").read_text().splitlines():
            dna, protein = line.split("\t")
            assert protein == str(Seq(dna).translate())
    assert (directory / "genes-60.tsv").read_text() == f"{gene}\tM{'AWK' * 12}*\nATGGTATAA\tMV*\n"
    assert (directory / "genes.tsv").read_text().startswith("Homo sapiens\tA.1\t38 codons\tATG")
    licences = (directory / "LICENCES").read_text()
    assert f"Biopython {metadata.version('biopython')}" in licences
    assert "CC0" in licences
    assert [path.name for path in directory.parent.iterdir()] == ["dna"]


def test_an_existing_directory_is_left_alone(script, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert script.main([str(tmp_path)]) == 2
    assert f"{tmp_path} exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(script, tmp_path):
    with pytest.raises(UnicodeEncodeError):  # a lone surrogate cannot be written as UTF-8
        script.write(tmp_path / "dna", {"train": ["ATG"]}, [], "\ud800")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_clear_message(script, tmp_path, capsys, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert script.main([str(tmp_path / "dna")]) == 2
    assert "Install them: pip install 'qkv[dna]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_pip_is_asked_for_the_installed_version_and_its_failure_is_told(script, tmp_path, capsys, monkeypatch):
    asked = []

    def fails(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", fails)
    assert script.main([str(tmp_path / "dna")]) == 2
    message = capsys.readouterr().err
    assert "ERROR: no network" in message
    assert "--archive" in message
    assert f"biopython=={metadata.version('biopython')}" in asked[0]
    assert not list(tmp_path.iterdir())


def test_what_pip_downloads_is_read(script, tmp_path, monkeypatch):
    def downloads(command, **_):
        archive_of(Path(command[-1]) / "biopython-9.9.tar.gz", {"Tests/a.gb": whole("ATGGCATAA", "MA")})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", downloads)
    archive = script.download("9.9", tmp_path)
    assert [gene.protein for gene in script.real_genes(archive)] == ["MA*"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_recipe_is_good_for_every_architecture(architecture):
    config = load_config(RECIPES / "dna.yaml", [f"model.architecture={architecture}"])
    assert config.model.architecture == architecture
    assert config.tokenizer.source.kind == config.tokenizer.target.kind == "char"
