"""What is made before the first step, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qkv.config.loading import load_config
from qkv.errors import UserError
from qkv.run import preparation
from qkv.run.description import books
from qkv.run.directory import Run
from qkv.run.preparation import losses, pair_files, prepare, training_corpus, validation_corpus
from qkv.text.tokenizer import Tokenizers


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def ids_of(corpus: Any) -> list[tuple[list[int], list[int]]]:
    return [(corpus.source(i).tolist(), corpus.target(i).tolist()) for i in range(len(corpus))]


def test_what_lies_in_a_run(recipe):
    prepared = prepare(load_config(recipe()), resume=False)
    run = Run(recipe()["run"])
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "encoded", "tokenizer"]
    assert run.config.training.steps == 20
    assert prepared.tokenizers.source.vocab_size == run.tokenizers().source.vocab_size == 40
    assert prepared.model_options.vocab_size == prepared.model_options.target_vocab_size == 40
    assert len(training_corpus(prepared, 0)) == 160
    corpus = validation_corpus(prepared)
    assert corpus is not None
    assert len(corpus) == 20
    tokenizer = prepared.tokenizers.source
    assert tokenizer.decode([corpus.source(0)]) == ["kami"]


def test_resuming_uses_what_is_there(recipe, monkeypatch):
    config = load_config(recipe())
    first = prepare(config, resume=False)
    before = content(first.run.path)
    monkeypatch.setattr(Tokenizers, "learn", None)
    monkeypatch.setattr(preparation, "write_encoded", None)
    again = prepare(config, resume=True)
    assert ids_of(training_corpus(again, 0)) == ids_of(training_corpus(first, 0))
    assert content(first.run.path) == before


def test_resuming_makes_what_is_missing(recipe):
    import shutil

    config = load_config(recipe())
    first = prepare(config, resume=False)
    expected = ids_of(training_corpus(first, 0))
    for name in ("tokenizer", "encoded"):
        shutil.rmtree(first.run.path / name)
    assert ids_of(training_corpus(prepare(config, resume=True), 0)) == expected


def test_an_empty_directory_may_become_a_run(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    prepare(load_config(recipe()), resume=False)


@pytest.mark.parametrize("file", ["tokenizer/joint.model", "tokenizer/settings.json", "encoded/train/source.ids"])
def test_what_is_prepared_is_checked(recipe, file):
    """A tokenizer by its checksum; encoded pairs, which may be many gigabytes, by their size."""
    path = prepare(load_config(recipe()), resume=False).run.path / file
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1) + b"\n")
    with pytest.raises(UserError, match=r"damaged"):
        prepare(load_config(recipe()), resume=True)


@pytest.mark.parametrize("what", ["a file in the directory", "a file of that name"])
def test_what_exists_is_left_alone(recipe, tmp_path, what):
    path = tmp_path / "run"
    if what == "a file of that name":
        path.write_text("precious")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("precious")
    before = content(tmp_path)
    with pytest.raises(UserError, match="run: exists already; go on with"):
        prepare(load_config(recipe()), resume=False)
    assert content(tmp_path) == before


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": None}}, r"data\.train is not set: say data\.train=FILE\.tsv, or data\.train\.source="),
        ({"data": {"train": {"source": "a.txt"}}}, r"data\.train: "),
        ({"data": {"train": "missing.tsv"}}, r"missing\.tsv"),
        ({"data": {"validation": "missing.tsv"}}, r"missing\.tsv"),
        ({"data": {"test": "missing.tsv"}}, r"missing\.tsv"),
        ({"data": {"max_length": 2}, "tokenizer": {"kind": "char"}}, r"data\.train: none of 160 pairs is left"),
        ({"tokenizer": {"vocab_size": 5}}, r"vocab_size 5 is too small"),
        (
            {"model": {"position": "learned", "max_length": 9}},
            r"data\.max_length is 256, but .* model\.max_length=9 pos",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(recipe, tmp_path, changes, message):
    """So that the mended recipe can be run, without `--resume` and without removing anything first."""
    with pytest.raises(UserError, match=message):
        prepare(load_config(recipe(**changes)), resume=False)
    assert not (tmp_path / "run").exists()
    prepare(load_config(recipe()), resume=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "broken.tsv"),
        ("a\tb\nc\n", r"broken\.tsv.*2"),
        ("\t\n \t\n", "every line is empty|none of 2 pairs is left"),
    ],
)
@pytest.mark.parametrize("which", ["train", "validation"])
def test_a_fault_in_the_data_is_found_before_anything_is_learnt(recipe, tmp_path, which, text, message):
    broken = write(tmp_path / "broken.tsv", text)
    with pytest.raises(UserError, match=message):
        prepare(load_config(recipe(data={which: broken})), resume=False)
    assert not (tmp_path / "run").exists()


def test_files_are_looked_for_below_the_root(recipe, tmp_path):
    config = load_config(recipe(data={"root": "/data", "train": {"source": "a.en", "target": "/other/a.de"}}))
    files = pair_files(config, "train")
    assert (str(files.source), str(files.target)) == ("/data/a.en", "/other/a.de")


def test_a_directory_that_cannot_be_made(recipe, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be written"):
        prepare(load_config(recipe("file/run")), resume=False)


def test_subword_sampling_cuts_anew_in_every_epoch(recipe):
    """One epoch lies on the disk at a time; each is a function of seed and epoch alone."""
    prepared = prepare(load_config(recipe(tokenizer={"sampling": 0.3})), resume=False)
    epochs = [ids_of(training_corpus(prepared, epoch)) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    encoded = prepared.run.path / "encoded"
    assert sorted(path.name for path in encoded.iterdir()) == ["train-epoch-00002", "validation"]
    assert ids_of(training_corpus(prepared, 1)) == epochs[1]
    decode = prepared.tokenizers.source.decode
    texts = [[decode([source])[0] for source, _ in epoch] for epoch in epochs]
    assert texts[0] == texts[1] == texts[2]
    other = prepare(load_config(recipe("other", tokenizer={"sampling": 0.3}) | {"seed": 2}), resume=False)
    assert ids_of(training_corpus(other, 1)) != epochs[1]


def test_without_sampling_all_epochs_are_one(recipe):
    prepared = prepare(load_config(recipe()), resume=False)
    assert ids_of(training_corpus(prepared, 0)) == ids_of(training_corpus(prepared, 7))


WORDS = ["ab", "ba", "abba", "baab", "aabb", "bbaa", "abab", "baba"]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
@pytest.mark.parametrize(
    "targets",
    [
        [f"{word}\0" for word in WORDS],
        [f"{word}▅" if n % 2 else word for n, word in enumerate(WORDS)],
        [f"{word}▁{word}" for word in WORDS],
        ["<s>", "</s>", "<unk>", "<pad>", *WORDS[4:]],
        [f"{word}\r" for word in WORDS],
        ["ACGT" * 16_500, *WORDS[1:]],
    ],
    ids=["NUL", "lower five eighths block", "lower one eighth block", "special pieces", "CR", "long lines"],
)
def test_no_token_of_the_training_pairs_is_unknown(recipe, tmp_path, kind, targets):
    """From each of these a tokenizer was learnt that did not know them, and then a model, without a word."""
    path = tmp_path / "train.jsonl"
    pairs = zip(WORDS, targets, strict=True)
    path.write_text("".join(json.dumps({"source": source, "target": target}) + "\n" for source, target in pairs))
    data = {"train": str(path), "validation": str(path), "max_length": 100_000}
    prepared = prepare(load_config(recipe(data=data, tokenizer={"kind": kind})), resume=False)
    assert list(losses(prepared, epoch=0)) == []
    tokenizer, corpus = prepared.tokenizers.target, training_corpus(prepared, 0)
    assert tokenizer.decode(corpus.target(i) for i in range(len(corpus))) == targets


def test_unknown_tokens_are_refused_where_every_character_was_to_be_learnt(recipe, tmp_path):
    pairs = write(tmp_path / "pairs.tsv", "aaabbb\tx\n" * 9 + "aab\tdxd\n")
    data, tokenizer = {"train": pairs, "validation": None}, {"kind": "char", "vocab_size": 7}
    message = (
        "data.train: target tokens that the tokenizer does not know: 2 of 22 (9.09 %), first: 'd' (U+0064) in pair 10, "
        "though tokenizer.character_coverage is 1; raise tokenizer.vocab_size (7), or allow it by"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(load_config(recipe(data=data, tokenizer=tokenizer)), resume=False)
    assert not (tmp_path / "run").exists()
    allowed = recipe(data=data, tokenizer=tokenizer | {"character_coverage": 0.999})
    assert list(losses(prepare(load_config(allowed), resume=False), epoch=0)) == [
        "data.train: target tokens that the tokenizer does not know: 2 of 22 (9.09 %), first: 'd' (U+0064) in pair 10",
        "data.train: targets that the tokenizer does not give back as they are: 1 of 10 (10 %): 1 for unknown symbols "
        "(first: pair 10)",
    ]


def test_a_refusal_is_not_forgotten_by_resuming(recipe, tmp_path):
    """A run that was killed between the encoding and the check."""
    pairs = write(tmp_path / "pairs.tsv", "aaabbb\tx\n" * 9 + "aab\tdxd\n")
    said = {"data": {"train": pairs}, "tokenizer": {"kind": "char", "vocab_size": 7}}
    config = load_config(recipe(**said))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "_check_known", lambda prepared: training_corpus(prepared, 0))
        prepare(config, resume=False)
    with pytest.raises(UserError, match=r"target tokens .*: 2 of 22"):
        prepare(config, resume=True)


def test_the_books_are_kept_with_the_run(recipe, tmp_path):
    pairs = write(tmp_path / "pairs.tsv", "ab\tba\n" * 5 + "ab\t\n" + "abababab\tba\n")
    data = {"train": pairs, "max_length": 6}
    prepared = prepare(load_config(recipe(data=data, tokenizer={"kind": "char"})), resume=False)
    [train, validation] = books(prepared.run)
    assert train == (
        "training",
        "7 pairs read, 5 kept, 2 left out (1 empty target (first: pair 6), 1 source too long (first: pair 7)); "
        "15 source tokens, 15 known, 0 unknown; 15 target tokens, 15 known, 0 unknown",
    )
    assert validation[0] == "validation"
    assert "20 pairs read, 20 kept; " in validation[1]
