"""What a training says of pairs that it does not see as they stand in the files, and that it says nothing else."""

import pytest

from qkv.training.trainer import resume, train

CLEAN = [f"{word}\t{word.upper()}\n" for word in ("ab", "ba", "abb", "bba", "abab")]


@pytest.fixture
def said(recipe, tmp_path, capsys):
    """The lines of data of a training's log."""

    def log(lines, **changes):
        (tmp_path / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
        data = {"train": str(tmp_path / "pairs.tsv"), "validation": None} | changes.pop("data", {})
        train(recipe(data=data, training={"steps": 1}, **changes))
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("data.")]

    return log


def test_nothing_of_a_clean_corpus(said, tmp_path):
    (tmp_path / "validation.tsv").write_text("".join(CLEAN[:2]))
    assert said(CLEAN, data={"validation": str(tmp_path / "validation.tsv")}) == []


def test_pairs_that_are_left_out(said, tmp_path, capsys):
    lost = (
        "data.train: pairs left out: 2 of 7 (28.6 %): 1 target too long (first: pair 6), 1 empty source (first: pair 7)"
    )
    changes = {"tokenizer": {"kind": "char"}, "data": {"max_length": 6}}
    assert said([*CLEAN, "a\tABABABAB\n", "\tA\n"], **changes) == [lost]
    resume(tmp_path / "run", ["training.steps=2"])
    assert lost in capsys.readouterr().err.splitlines()


def test_targets_that_no_output_can_equal(said):
    lines = [*CLEAN, "a\tA  B\n", "b\tA \n"]
    assert said(lines) == [
        "data.train: targets that the tokenizer does not give back as they are: 2 of 7 (28.6 %): "
        "2 for spaces, which tokenizer.spaces=keep would keep (first: pair 6)"
    ]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "word"])
def test_targets_whose_spaces_are_kept(said, kind):
    assert said([*CLEAN, "a\tA  B\n", "b\tA \n"], tokenizer={"kind": kind, "spaces": "keep"}) == []


def test_words_that_are_not_in_the_vocabulary(said):
    lines = ["a a a\tb b b\n", "a\tb\n", "c\tb d\n"]
    assert said(lines, tokenizer={"kind": "word", "vocab_size": 6}) == [
        "data.train: source tokens that the tokenizer does not know: 1 of 8 (12.5 %), first: 'c' (U+0063) in pair 3",
        "data.train: target tokens that the tokenizer does not know: 1 of 9 (11.1 %), first: 'd' (U+0064) in pair 3",
        "data.train: targets that the tokenizer does not give back as they are: 1 of 3 (33.3 %): "
        "1 for unknown symbols (first: pair 3)",
    ]
