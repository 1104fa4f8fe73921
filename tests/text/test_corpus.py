"""Readers: every format gives the same pairs, and every fault names its file and line."""

import gzip
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.text.corpus import Pair, PairFiles, group_references, read_lines, read_pairs

PAIRS = [Pair("ein Hund", "a dog"), Pair("", "empty source"), Pair(" zwei  Katzen ", "two cats")]
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t"))


def write(path, lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def aligned(directory, sources, targets, **options):
    return PairFiles(
        source=write(directory / "train.de", sources, **options),
        target=write(directory / "train.en", targets, **options),
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_aligned_files(tmp_path, end):
    files = aligned(tmp_path, [p.source for p in PAIRS], [p.target for p in PAIRS], end=end)
    assert list(read_pairs(files)) == PAIRS


def test_a_missing_last_line_end_costs_no_line(tmp_path):
    (tmp_path / "a").write_text("one\ntwo")
    (tmp_path / "b").write_text("eins\nzwei\n")
    files = {"source": str(tmp_path / "a"), "target": str(tmp_path / "b")}
    assert list(read_pairs(files)) == [("one", "eins"), ("two", "zwei")]


def test_tsv_by_path_alone(tmp_path):
    path = write(tmp_path / "train.tsv", ["\t".join(pair) for pair in PAIRS])
    assert list(read_pairs(path)) == list(read_pairs(str(path))) == PAIRS


def test_tsv_columns_may_be_chosen(tmp_path):
    path = write(tmp_path / "words.txt", ["1\tdog\tD AO G", "2\tcat\tK AE T"])
    files = PairFiles(path=path, format="tsv", source_column=2, target_column=1)
    assert list(read_pairs(files)) == [("D AO G", "dog"), ("K AE T", "cat")]


def test_jsonl(tmp_path):
    path = write(tmp_path / "train.jsonl", [json.dumps({"id": 1, "de": s, "en": t}) for s, t in PAIRS])
    assert list(read_pairs({"path": path, "source_column": "de", "target_column": "en"})) == PAIRS


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"target": [p.target for p in PAIRS], "id": [1, 2, 3], "source": [p.source for p in PAIRS]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    assert list(read_pairs(tmp_path / "train.parquet")) == PAIRS


@given(lines=st.lists(st.tuples(LINES, LINES), min_size=1))
def test_any_text_comes_back(tmp_path_factory, lines):
    directory = tmp_path_factory.mktemp("pairs")
    sources, targets = zip(*lines, strict=True)
    write(directory / "train.tsv", ["\t".join(pair) for pair in lines])
    for files in (aligned(directory, sources, targets), directory / "train.tsv"):
        read = list(read_pairs(files))
        # A byte order mark opens a file, it is not part of its text.
        assert read[1:] == lines[1:]
        assert read[0] == (sources[0].removeprefix("\ufeff"), read[0].target)
        assert read[0].target in (targets[0], targets[0].removeprefix("\ufeff"))


def test_reading_is_lazy(tmp_path):
    (tmp_path / "x.tsv").write_bytes(b"a\tb\n" * 100_000 + b"\xff\n")
    pairs = read_pairs(tmp_path / "x.tsv")
    assert next(pairs) == ("a", "b")  # the fault further down has not been reached


def test_read_lines_strips_line_ends_only(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("  one \r\n\u2028two\x0c\n\nlast".encode())
    assert list(read_lines(path)) == ["  one ", "\u2028two\x0c", "", "last"]


def test_read_lines_of_a_stream_as_they_come():
    def stream():
        yield from (b"\xef\xbb\xbfone\r\n", b"\n", b"two\xe9\n")
        pytest.fail("it has read on")

    lines = read_lines(stream())
    assert [next(lines), next(lines)] == ["one", ""]
    with pytest.raises(UserError, match=r"^standard input:3: not valid UTF-8 \(byte 4 of the line, 0xe9\)"):
        next(lines)


def test_a_compressed_stream_is_named():
    with pytest.raises(UserError, match=r"^standard input: not text, but compressed by gzip; unpack it first$"):
        list(read_lines(iter([gzip.compress(b"one\ntwo\n")])))


def test_group_references():
    pairs = [Pair("read", "R IY D"), Pair("a", "AH"), Pair("read", "R EH D")]
    assert group_references(pairs) == (["read", "a"], [["R IY D", "R EH D"], ["AH"]])


# The user's mistakes: (what is written, what the message must hold).


@pytest.mark.parametrize(("sources", "targets"), [(3, 5), (5, 3), (0, 1)])
def test_unequal_length_says_both_counts(tmp_path, sources, targets):
    files = aligned(tmp_path, ["x"] * sources, ["y"] * targets)
    with pytest.raises(UserError, match=rf"train\.de has {sources} lines but .*train\.en has {targets}"):
        list(read_pairs(files))


def test_missing_files_are_found_at_once(tmp_path):
    write(tmp_path / "a", ["x"])
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        read_pairs(PairFiles(source=tmp_path / "a", target=tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        read_lines(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot be read"):
        read_lines(tmp_path)


def test_invalid_utf8_names_file_and_line(tmp_path):
    (tmp_path / "x.tsv").write_bytes(b"a\tb\nc\td\ne\t\xe9\n")
    with pytest.raises(UserError, match=r"x\.tsv:3: not valid UTF-8 \(byte 3 of the line, 0xe9\)"):
        list(read_pairs(tmp_path / "x.tsv"))
    with pytest.raises(UserError, match=r"x\.tsv:3"):
        list(read_lines(tmp_path / "x.tsv"))


@pytest.mark.parametrize("name", ["x.tsv", "x.jsonl", "x.txt"])
def test_lone_carriage_returns_are_no_line_ends(tmp_path, name):
    """Old Macintosh files: 96 rows would be one."""
    rows = [json.dumps({"source": "a", "target": "b"}) if name == "x.jsonl" else "a\tb"] * 96
    path = tmp_path / name
    files = {"source": path, "target": path} if name == "x.txt" else path
    path.write_bytes("\r".join(rows).encode() + b"\n")
    with pytest.raises(UserError, match=rf"{name}:1: lone carriage returns within the line: 95, the first after char"):
        list(read_pairs(files))
    path.write_bytes("\n".join([*rows, "\r".join(rows[:3]), *rows]).encode())
    with pytest.raises(UserError, match=rf"{name}:97: lone .*: 2, .* if lines end with them: tr '\\r' '\\n' < FILE"):
        list(read_pairs(files))
    assert "\r" in list(read_lines(path))[96]  # what is to be translated may hold one


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["x.tsv", "x.jsonl", "x.txt"])
def test_other_encodings_are_named(tmp_path, name, encoding):
    (tmp_path / name).write_bytes("a\tb\n".encode(encoding))
    files = {"source": tmp_path / name, "target": tmp_path / name} if name == "x.txt" else tmp_path / name
    said = rf"{name}: not valid UTF-8, but {encoding.upper()}, as its byte order mark says; convert it: iconv -f"
    for read in (lambda: read_pairs(files), lambda: read_lines(tmp_path / name)):
        with pytest.raises(UserError, match=said):
            list(read())


@pytest.mark.parametrize("suffix", ["tsv", "jsonl"])
def test_an_empty_corpus(tmp_path, suffix):
    with pytest.raises(UserError, match=rf"empty\.{suffix}: no pairs"):
        list(read_pairs(write(tmp_path / f"empty.{suffix}", [])))
    with pytest.raises(UserError, match=r"train\.de and .*train\.en: no pairs"):
        list(read_pairs(aligned(tmp_path, [], [])))


def test_too_few_tsv_columns(tmp_path):
    path = write(tmp_path / "x.tsv", ["a\tb", "only one"])
    with pytest.raises(UserError, match=r"x\.tsv:2: 2 tab-separated columns needed, found 1"):
        list(read_pairs(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", r"x\.jsonl:2: a JSON object is needed"),
        ("{", r"x\.jsonl:2: not valid JSON"),
        ("", r"x\.jsonl:2: not valid JSON"),
        ('{"source": "a", "zh": "b"}', r"x\.jsonl:2: no text under the key 'target' \(keys: source, zh\)"),
        ('{"source": "a", "target": null}', r"x\.jsonl:2: no text under the key 'target' \(it is None\)"),
        (r'{"source": "a", "target": "\ud800"}', r"x\.jsonl:2: a lone surrogate"),
    ],
)
def test_faults_in_jsonl(tmp_path, line, message):
    path = write(tmp_path / "x.jsonl", ['{"source": "a", "target": "b"}', line])
    with pytest.raises(UserError, match=message):
        list(read_pairs(path))


def test_faults_in_parquet(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"source": ["a", "b"], "en": ["c", None]}), path)
    with pytest.raises(UserError, match=r"no column 'target'; its columns are source, en"):
        list(read_pairs(path))
    with pytest.raises(UserError, match=r"x\.parquet: row 2: text needed"):
        list(read_pairs(PairFiles(path=path, target_column="en")))
    write(tmp_path / "text.parquet", ["not parquet at all"])
    with pytest.raises(UserError, match=r"text\.parquet: not a Parquet file"):
        list(read_pairs(tmp_path / "text.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'qkv\[parquet\]'"):
        list(read_pairs(path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"path": "a.tsv", "source": "b"}, "either 'path'"),
        ({"source": "b"}, "both 'source' and 'target'"),
        ({"path": "a.txt"}, "the suffix does not tell the format"),
        ({"path": "a.tsv", "format": "csv"}, "unknown format 'csv'"),
        ({"path": "a.tsv", "source_colum": 1}, "did you mean source_column"),
        ({"path": "a.tsv", "source_column": ["de"]}, "source_column: must be text"),
        ({"path": "a.tsv", "header": "perhaps"}, "header: must be true or false"),
        ({"source": "a", "target": "b", "format": "tsv"}, "aligned text files have none"),
        ({"source": "a", "target": "b", "header": False}, "aligned text files have none"),
    ],
)
def test_settings_that_do_not_fit_together(files, message):
    with pytest.raises(UserError, match=message):
        read_pairs(files)
