"""A compressed file is read as what it holds, and one that is damaged is told in a line."""

import bz2
import gzip
import json
import lzma
import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.text.compression import plain_suffix
from qkv.text.corpus import Pair, PairFiles, read_lines, read_pairs

PACKINGS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PLAIN_AND_PACKED = {"": bytes} | PACKINGS
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t\ufeff"))
packings = pytest.mark.parametrize("suffix", PACKINGS)


def written(path, content):
    path.write_bytes(content)
    return path


@settings(max_examples=200)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r\r\n"]),
    last_end=st.booleans(),
    mark=st.sampled_from(["", "\ufeff"]),
    packing=st.sampled_from([*PLAIN_AND_PACKED]),
    header=st.booleans(),
    named=st.booleans(),
)
def test_pairs_are_the_same_however_they_lie(tmp_path_factory, pairs, end, last_end, mark, packing, header, named):
    """In every format, with every line end, packed or not, under a name that says so or not: lines = header + pairs."""
    directory = tmp_path_factory.mktemp("pairs")
    pairs = [*map(Pair._make, pairs), Pair("the last", "has a text")]

    def files(lines):
        text = mark + end.join(lines) + (end if last_end else "")
        return PLAIN_AND_PACKED[packing](text.encode())

    def write(name, lines):
        return written(directory / (name + (packing if named else "")), files(lines))

    rows = ["source\ttarget"] * header + ["\t".join(pair) for pair in pairs]
    tsv = write("x.tsv", rows)
    jsonl = write("x.jsonl", [json.dumps(pair._asdict(), ensure_ascii=False) for pair in pairs])
    sources, targets = (write(name, side) for name, side in zip("ab", zip(*pairs, strict=True), strict=True))
    told = []
    for where in (tsv, jsonl, {"source": sources, "target": targets}):
        assert list(read_pairs(where, told.append)) == pairs
    assert len(told) == header
    assert len(list(read_lines(tsv))) == header + len(pairs)


@packings
def test_parquet_within_another_packing(tmp_path, suffix):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"source": ["a", "b"], "target": ["A", "B"]}), tmp_path / "x.parquet")
    path = written(tmp_path / f"x.parquet{suffix}", PACKINGS[suffix]((tmp_path / "x.parquet").read_bytes()))
    assert list(read_pairs(path)) == [("a", "A"), ("b", "B")]


def test_the_suffix_below_tells_the_format():
    assert [plain_suffix(name) for name in ("a.tsv", "a.TSV.GZ", "a.b/c.jsonl.zst", "a.gz", "gz")] == [
        *(".tsv", ".tsv", ".jsonl", "", "")
    ]
    assert PairFiles(path="x.jsonl.xz").format_name == "jsonl"
    with pytest.raises(UserError, match=r"x\.gz: the suffix does not tell the format"):
        read_pairs("x.gz")


@packings
@pytest.mark.parametrize("name", ["x.tsv", "x.tsv{}"])
def test_every_cut_is_told_in_one_line(tmp_path, suffix, name):
    lines = "".join(f"source {i}\ttarget {i}\n" for i in range(200)).encode()
    whole = PACKINGS[suffix](lines)
    for length in (len(whole) // 2, len(whole) - 1):
        path = written(tmp_path / name.format(suffix), whole[:length])
        for read in (read_pairs, read_lines):
            with pytest.raises(UserError, match=r"^\S+: damaged or cut off; \w+ cannot be unpacked \([^\n]+\)$"):
                list(read(path))


@packings
def test_damage_is_told_in_one_line(tmp_path, suffix):
    whole = bytearray(PACKINGS[suffix]("".join(f"source {i}\ttarget {i}\n" for i in range(200)).encode()))
    for place in range(12, len(whole), 9):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        with pytest.raises(UserError, match=r"^[^\n]+x\.tsv[^\n]+$"):
            list(read_pairs(written(tmp_path / "x.tsv", damaged)))


@packings
@pytest.mark.parametrize("content", [b"", b"a\tb\n", b"\x1f"])
def test_a_name_that_says_what_is_not_so(tmp_path, suffix, content):
    with pytest.raises(UserError, match=r"as its name says; it is damaged, or has the wrong suffix$"):
        list(read_pairs(written(tmp_path / f"x.tsv{suffix}", content)))


def test_zstandard(tmp_path):
    zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    whole = zstd.compress("".join(f"source {i}\ttarget {i}\n" for i in range(200)).encode())
    assert len(list(read_pairs(written(tmp_path / "x.tsv.zst", whole)))) == 200
    with pytest.raises(UserError, match=r"x\.tsv: damaged or cut off; Zstandard cannot be unpacked"):
        list(read_pairs(written(tmp_path / "x.tsv", whole[:-5])))


def test_zstandard_without_its_package(tmp_path, monkeypatch):
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    path = written(tmp_path / "x.tsv.zst", b"\x28\xb5\x2f\xfd more")
    with pytest.raises(
        UserError, match=r"reading Zstandard needs a package; run: pip install 'qkv\[zstd\]', or unpack"
    ):
        list(read_pairs(path))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_read_once(pack):
    """`qkv evaluate --source <(sort …)`: what was looked at to tell the kind is not lost."""
    reading, writing = os.pipe()
    with open(writing, "wb") as pipe:
        pipe.write(pack(b"a\tA\nb\tB\n"))
    with open(reading, "rb"):
        assert list(read_pairs({"path": f"/dev/fd/{reading}", "format": "tsv"})) == [("a", "A"), ("b", "B")]
