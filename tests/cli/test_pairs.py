"""How verbs read pairs: as their options say, and else as the recipe reads its own."""

import gzip
from pathlib import Path

import pytest
import yaml

from qkv.cli.main import main

EVALUATE = ["evaluate", "--metrics", "cer,chrf"]  # they tell even bad outputs apart
ROWS = [("x", "Ä B", "ab"), ("y", "C Ä B", "cab"), ("z", "D Ä D Ä", "dada")]


@pytest.fixture
def rows(tmp_path):
    """Targets in column 1, sources in column 2."""
    path = tmp_path / "rows.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in ROWS), "utf-8")
    return path


@pytest.fixture
def plain(tmp_path):
    """The same pairs, in the order of everybody."""
    path = tmp_path / "plain.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for _, target, source in ROWS), "utf-8")
    return path


@pytest.fixture
def reversing(own_run, rows):
    """A run whose data.test has its columns the other way round."""
    config = Path(own_run, "config.yaml")
    settings = yaml.safe_load(config.read_text("utf-8"))
    settings["data"]["test"] = {"path": str(rows), "source_column": 2, "target_column": 1}
    config.write_text(yaml.safe_dump(settings), "utf-8")
    return own_run


@pytest.fixture
def done(capsys):
    """Run a command that must succeed: what it prints, and what it tells of the files."""

    def done(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        captured = capsys.readouterr()
        told = [line.removeprefix("qkv: ") for line in captured.err.splitlines() if line.startswith("qkv: ")]
        return captured.out.splitlines(), told

    return done


@pytest.mark.parametrize("verb", [EVALUATE, ["score"], ["align"]], ids=lambda verb: verb[0])
def test_the_file_of_the_recipe_is_read_as_the_recipe_says(verb, reversing, run, rows, plain, done, monkeypatch):
    expected = done(*verb, run, "--data", plain)
    assert done(*verb, run, "--data", rows) != expected
    monkeypatch.chdir(rows.parent)
    for name in (rows, "rows.tsv"):  # the same file by another path
        assert done(*verb, reversing, "--data", name) == expected
    if verb != ["score"]:
        assert done(*verb, reversing) == expected


def test_another_file_of_the_format_is_read_alike_and_told(reversing, run, rows, plain, tmp_path, done):
    expected, _ = done(*EVALUATE, run, "--data", plain)
    other = tmp_path / "other.tsv.gz"
    other.write_bytes(gzip.compress(rows.read_bytes()))
    told = [f"{other}: read as data.test is: source_column 2, target_column 1"]
    assert done(*EVALUATE, reversing, "--data", other) == (expected, told)


def test_options_come_before_the_recipe(reversing, run, rows, plain, ok):
    columns = ("--source-column", 2, "--target-column", 1)
    expected = ok(*EVALUATE, run, "--data", plain)
    assert ok(*EVALUATE, run, "--data", rows, *columns) == expected
    assert ok(*EVALUATE, reversing, "--data", rows, "--source-column", 1, "--target-column", 2) != expected
    named = rows.with_suffix(".txt")
    named.write_text(f"id\tsagt\tliest\n{rows.read_text('utf-8')}", "utf-8")
    said = ("--data", named, "--format", "tsv", "--source-column", "liest", "--target-column", "sagt")
    assert ok(*EVALUATE, run, *said) == expected
    assert ok(*EVALUATE, run, "--data", named, "--format", "tsv", "--header", *columns) == expected
    assert ok(*EVALUATE, run, "--data", named, "--format", "tsv", "--no-header", *columns)[0].startswith("4 pairs")


def test_standard_input_is_read_alike(reversing, run, rows, plain, done, typed):
    expected, _ = done("score", run, "--data", plain)
    for of, columns, told in (
        (run, ["--source-column", 2, "--target-column", 1], []),
        (reversing, [], ["standard input: read as data.test is: source_column 2, target_column 1"]),
    ):
        typed(rows.read_bytes())
        assert done("score", of, *columns) == (expected, told)
    typed(rows.read_bytes())
    assert done("score", run)[1][0].startswith("standard input: 3 columns, of which only 0 (source) and 1 (target)")


def test_options_that_have_no_file_are_refused(run, data, refused):
    for verb in ("evaluate", "align", "benchmark"):
        assert refused(verb, run, "--source-column", 1) == "--source-column goes with --data FILE"
        assert refused(verb, run, "--no-header") == "--header goes with --data FILE"
    aligned = ("--source", data / "test.source", "--target", data / "test.target")
    assert refused("evaluate", run, *aligned, "--header").endswith("aligned text files have none")
    assert refused("score", run, "--format", "jsonl") == (
        "standard input is read as TSV; --format jsonl goes with --data FILE"
    )


@pytest.mark.parametrize("verb", ["evaluate", "score", "align"])
def test_what_is_found_while_reading_is_told(verb, run, tmp_path, done):
    path = tmp_path / "headed.tsv"
    path.write_text("source\ttarget\nab\tÄ B\ncab\tC Ä B\tnote\n", "utf-8")
    _, told = done(verb, run, "--data", path)
    assert [line.removeprefix(str(path)).partition(";")[0] for line in told] == [
        ":1: left out as a header line ('source' → 'target')",
        ": rows with another number of columns than the first line's 2: 1, the first of them line 3 with 3",
    ]


def test_translate_reads_compressed_files(run, tmp_path, ok, capsys):
    (tmp_path / "in.txt").write_bytes(b"ab\ncab\n")
    (tmp_path / "in.gz").write_bytes(gzip.compress(b"ab\ncab\n"))
    assert ok("translate", run, "--input", tmp_path / "in.gz") == ok("translate", run, "--input", tmp_path / "in.txt")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"ab\ncab\n")[:-3])
    assert main(["translate", run, "--input", str(tmp_path / "cut.gz")]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2, "what could be read"
    assert "damaged or cut off; gzip cannot be unpacked" in err


def test_training_tells_once_and_before_it_begins(recipe, data, tmp_path, capsys):
    path = tmp_path / "train.tsv.gz"
    path.write_bytes(gzip.compress(b"source\ttarget\textra\n" + (data / "train.tsv").read_bytes()))
    assert main(["train", recipe, f"run={tmp_path}/run", "steps=2", f"data.train={path}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if str(path) in line]
    assert [line.partition("; ")[0] for line in told] == [
        f"{path}:1: left out as a header line ('source' → 'target')",
        f"{path}: rows with another number of columns than the first line's 3: 10, the first of them line 2 with 2",
    ]
    assert lines[: len(told)] == told
    assert " 10 pairs, " in lines[len(told)]
    assert main(["train", "--resume", f"{tmp_path}/run", "steps=4"]) == 0
    assert str(path) not in capsys.readouterr().err
    assert main(["train", recipe, f"run={tmp_path}/clean", "steps=2"]) == 0
    assert capsys.readouterr().err.startswith("training: ")
