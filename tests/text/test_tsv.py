"""TSV: which columns are read, whether there is a header, and what the user is told of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.text.corpus import read_pairs
from qkv.text.formats.tsv import pairs_of

SENTENCES = ["ein Hund\ta dog", "zwei Katzen\ttwo cats", "drei\tthree"]
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t\ufeff"))


@pytest.fixture
def read(tmp_path):
    """Read rows as a file: the pairs, and what was told."""

    def read(rows, **how):
        path = tmp_path / "x.tsv"
        path.write_bytes("".join(f"{row}\n" for row in rows).encode())
        told = []
        pairs = list(read_pairs({"path": path, **how}, told.append))
        return pairs, [line.removeprefix(str(path)) for line in told]

    return read


@pytest.fixture
def refused(read):
    def refused(rows, **how):
        with pytest.raises(UserError) as error:
            read(rows, **how)
        return str(error.value).partition("x.tsv")[2]

    return refused


def test_two_columns_and_nothing_to_say(read):
    assert read(SENTENCES) == ([tuple(row.split("\t")) for row in SENTENCES], [])


@pytest.mark.parametrize(
    "header",
    [
        *("source\ttarget", "SRC\tTGT", "# input\toutput", "word\tpronunciation", '"source_text"\t"target_text"'),
        *("de\ten", "de-DE\ten_US", "German\tEnglish", "zho\teng", "question\tanswer"),
    ],
)
def test_a_header_is_left_out_and_told(read, header):
    pairs, told = read([header, *SENTENCES])
    assert pairs == read(SENTENCES)[0]
    (line,) = told
    assert line.startswith(":1: left out as a header line (")
    assert line.endswith("); if it is a pair, say header: false")


@pytest.mark.parametrize("header", ["source\ttarget", "de\ten"])
def test_a_header_is_what_the_recipe_says(read, header):
    pairs = read(SENTENCES)[0]
    assert read([header, *SENTENCES], header=True) == (pairs, [])
    assert read([header, *SENTENCES], header=False) == ([tuple(header.split("\t")), *pairs], [])
    assert read(SENTENCES, header=True) == (pairs[1:], [])


@pytest.mark.parametrize("first", ["id\ttext", "word\tlemma", "de\ttext", "en\tsentence"])
def test_what_may_be_either_is_read_and_asked_about(read, first):
    """A true pair is never lost."""
    pairs, told = read([first, *SENTENCES])
    assert pairs == [tuple(first.split("\t")), *read(SENTENCES)[0]]
    assert told == [":1: a pair, or a header line? It is read as a pair; say header: true or header: false"]


def test_languages_are_no_header_among_words_as_short(read):
    """Half of a dictionary looks so."""
    pairs, told = read(["he\thi", "no\ton", "kami\tmika"])
    assert pairs[0] == ("he", "hi")
    assert told == [":1: a pair, or a header line? It is read as a pair; say header: true or header: false"]
    assert read(["de\ten"])[0] == [("de", "en")]  # nothing is there to tell by


@pytest.mark.parametrize(
    "first", ["de\tDE", "ab\tba", "word\tword", "read\tR IY D", "source\tS AO R S", "x\ty", "a\tA"]
)
def test_a_clean_corpus_makes_no_noise(read, first):
    assert read([first, *SENTENCES])[1] == []
    assert read([*SENTENCES, "source\ttarget"])[1] == []


def test_a_header_tells_which_columns_are_source_and_target(read):
    rows = ["id\ttarget\tsource\tscore", "1\tA\ta\t0.5", "2\tB\tb\t0.1"]
    pairs, told = read(rows)
    assert pairs == [("a", "A"), ("b", "B")]
    assert told == [":1: left out as a header line ('source' → 'target'); if it is a pair, say header: false"]
    assert read(rows, header=True) == (pairs, [])


def test_columns_by_the_names_of_the_header(read, refused):
    rows = ["id\tde\ten", "1\tHund\tdog"]
    assert read(rows, source_column="en", target_column="de") == ([("dog", "Hund")], [])
    assert read(rows, source_column="en", target_column=0) == ([("dog", "1")], [])
    assert refused(rows, source_column="fr", target_column="de") == (
        ": a TSV column is a number counted from 0, or a name in the header line, not 'fr' "
        "(the first has no such: id, de, en)"
    )
    assert refused(rows, source_column="de", header=False).endswith("not 'de' (there is no header)")


def test_columns_that_nobody_chose_are_told(read):
    rows = ["1\tdog\tD AO G", "2\tcat\tK AE T"]
    pairs, told = read(rows)
    assert pairs == [("1", "dog"), ("2", "cat")]
    assert told == [
        ": 3 columns, of which only 0 (source) and 1 (target) are read; choose by source_column and target_column"
    ]
    assert read(rows, source_column=0, target_column=1) == (pairs, [])


def test_rows_unlike_the_first_are_counted(read, refused):
    rows = ["a\tA", "b\tB\tnote", "c\tC", "d\tD\tx\ty"]
    for how in ({}, {"source_column": 0, "target_column": 1}):
        assert read(rows, **how)[1] == [
            ": rows with another number of columns than the first line's 2: 2, the first of them line 2 with 3; "
            "columns 0 and 1 are read of all"
        ]
    assert "the first of them line 3 with 3;" in read(["source\ttarget", *rows], header=True)[1][0]
    assert refused(["a\tA\tx", "b\tB"], target_column=2) == ":2: 3 tab-separated columns needed, found 2"
    assert refused(["source\ttarget", "only one"]) == ":2: 2 tab-separated columns needed, found 1"
    assert refused(["only one"]) == ":1: 2 tab-separated columns needed, found 1"


def test_a_header_alone_is_no_corpus(refused):
    assert refused(["source\ttarget"]) == ": no pairs in it; the corpus is empty"


def test_a_header_belongs_to_tsv(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"source": "a", "target": "b"}\n')
    with pytest.raises(UserError, match=r"x\.jsonl: jsonl names its columns itself, so that 'header' does not belong"):
        read_pairs({"path": tmp_path / "x.jsonl", "header": True})


def test_a_stream_is_not_read_ahead():
    def lines():
        yield "de\ten"
        pytest.fail("it has read on")

    assert next(pairs_of(lines(), "standard input", ahead=0)) == ("de", "en")


@given(data=st.data(), width=st.integers(2, 5))
def test_any_columns_by_number_or_by_name(data, width):
    """Lines = header + pairs, and nothing is told of what was chosen."""
    names = st.lists(st.text("abcdefgh", min_size=4, max_size=6), min_size=width, max_size=width, unique=True)
    names = data.draw(names)
    rows = data.draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6))
    source, target = (data.draw(st.integers(0, width - 1)) for _ in range(2))
    expected = [(row[source], row[target]) for row in rows]
    body, told = ["\t".join(row) for row in rows], []
    columns = str(source), str(target)
    assert list(pairs_of(iter(body), "x", *columns, False, told.append)) == expected
    named = ["\t".join(names), *body]
    for how in ((*columns, True), (names[source], names[target], None), (names[source], names[target], True)):
        assert list(pairs_of(iter(named), "x", *how, told.append)) == expected
    assert told == []
