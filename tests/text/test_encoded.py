"""The encoded corpus: what goes in comes out, whole or not at all."""

import json
from itertools import starmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.text import encoded
from qkv.text.balance import Balance, Count
from qkv.text.corpus import Pair, read_pairs
from qkv.text.encoded import EncodedCorpus, write_encoded
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import KINDS, TokenizerSettings

PAIRS = [Pair("abc" * n, "x y " * n) for n in range(1, 21)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    settings = TokenizerSettings(joint=False, source={"kind": "char"}, target={"kind": "word"})
    return Tokenizers.learn(PAIRS, tmp_path_factory.mktemp("tokenizer"), settings)


def ids_of(corpus):
    return [(corpus.source(i).tolist(), corpus.target(i).tolist()) for i in range(len(corpus))]


@pytest.mark.parametrize("at_once", [1, 7, 8192])
def test_every_pair_comes_out_with_eos(tmp_path, tokenizers, monkeypatch, at_once):
    monkeypatch.setattr(encoded, "PAIRS_AT_ONCE", at_once)
    write_encoded(tmp_path / "train", iter(PAIRS), tokenizers, max_length=100)
    corpus = EncodedCorpus.open(tmp_path / "train")
    assert len(corpus) == len(PAIRS)
    assert (corpus.balance.read, corpus.balance.kept, corpus.balance.dropped) == (20, 20, {})
    for i, pair in enumerate(PAIRS):
        assert corpus.source(i).tolist() == [
            *tokenizers.source.encode([pair.source])[0],
            tokenizers.source.eos,
        ]
        assert corpus.target(i).tolist() == [
            *tokenizers.target.encode([pair.target])[0],
            tokenizers.target.eos,
        ]
    assert corpus.source_lengths.tolist() == [3 * n + 1 for n in range(1, 21)]
    assert corpus.target_lengths.tolist() == [2 * n + 1 for n in range(1, 21)]
    assert corpus.source_lengths.dtype == corpus.target_lengths.dtype == np.int32


@pytest.mark.parametrize("indices", [[0], [3, 3], [19, 0, 7], list(range(20))])
def test_several_at_once_lie_end_to_end(tmp_path, tokenizers, indices):
    corpus = write_encoded(tmp_path / "train", PAIRS, tokenizers, max_length=100)
    several = corpus.rows(np.array(indices))
    for (ids, lengths), one in zip(several, (corpus.source, corpus.target), strict=True):
        assert ids.tolist() == [token for i in indices for token in one(i).tolist()]
        assert lengths.tolist() == [len(one(i)) for i in indices]


def test_it_is_memory_mapped_and_small(tmp_path, tokenizers):
    corpus = write_encoded(tmp_path / "train", PAIRS, tokenizers, max_length=100)
    assert isinstance(corpus.source_lengths.base, np.memmap)
    assert corpus.source(3).dtype == np.uint16
    assert not corpus.source(3).flags.writeable
    tokens = int(corpus.source_lengths.sum())
    assert (tmp_path / "train" / "source.ids").stat().st_size == 2 * tokens


def test_a_large_vocabulary_needs_wider_numbers(tmp_path, tokenizers, monkeypatch):
    monkeypatch.setattr(tokenizers.target, "vocab_size", (1 << 16) + 1)
    corpus = write_encoded(tmp_path / "train", PAIRS, tokenizers, max_length=100)
    assert corpus.source(0).dtype == np.uint16
    assert corpus.target(0).dtype == np.uint32
    assert tokenizers.target.decode([corpus.target(0)]) == ["x y"]


def test_empty_and_long_pairs_are_dropped_and_counted(tmp_path, tokenizers):
    pairs = [
        Pair("abc", ""),
        Pair("", "x"),
        Pair("abc", "  "),
        Pair("abca", "x"),
        Pair("abc", "x x x"),
        Pair("a", "y y y y"),
    ]
    corpus = write_encoded(tmp_path / "train", pairs, tokenizers, max_length=4)  # three tokens and eos
    assert len(corpus) == 1
    assert corpus.balance == EncodedCorpus.open(tmp_path / "train").balance
    assert corpus.balance.read == 6
    assert corpus.balance.dropped == {
        "empty target": Count(2, pair=1),
        "empty source": Count(1, pair=2),
        "source too long": Count(1, pair=4),
        "target too long": Count(1, pair=6),
    }
    assert tokenizers.source.decode([corpus.source(0)]) == ["abc"]
    assert tokenizers.target.decode([corpus.target(0)]) == ["x x x"]


def test_nothing_left(tmp_path, tokenizers):
    with pytest.raises(UserError, match=r"none of 20 pairs is left: .* max_length=2"):
        write_encoded(tmp_path / "train", PAIRS, tokenizers, max_length=2)
    assert list(tmp_path.iterdir()) == []


def test_sampling_is_a_function_of_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "PAIRS_AT_ONCE", 10)
    pairs = [Pair("the little dog and the little cat", "der kleine Hund und die kleine Katze")] * 30
    tokenizers = Tokenizers.learn(pairs, tmp_path / "tokenizer", TokenizerSettings(vocab_size=40))

    def sampled(seed):
        return ids_of(write_encoded(tmp_path / "c", pairs, tokenizers, max_length=99, sampling=0.2, seed=seed))

    first = sampled(1)
    assert sampled(1) == first
    for side in range(2):
        texts = [pair[side] for pair in first]
        assert texts != [pair[side] for pair in sampled(2)]
        assert texts[:10] != texts[10:20]  # nor does each part of the corpus repeat the same draws
    assert tokenizers.target.decode([target for _, target in first]) == [pairs[0].target] * 30


def test_a_failure_leaves_the_old_corpus_alone(tmp_path, tokenizers):
    write_encoded(tmp_path / "train", PAIRS, tokenizers, max_length=100)

    def broken():
        yield from PAIRS
        raise UserError("bad.tsv:21: no")

    with pytest.raises(UserError, match="bad"):
        write_encoded(tmp_path / "train", broken(), tokenizers, max_length=100)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert len(EncodedCorpus.open(tmp_path / "train")) == 20
    assert len(write_encoded(tmp_path / "train", PAIRS[:5], tokenizers, max_length=100)) == 5


def test_a_disk_that_cannot_be_written(tmp_path, tokenizers):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_encoded(tmp_path / "file" / "train", PAIRS, tokenizers, max_length=100)


def test_opening_what_is_missing_or_damaged(tmp_path, tokenizers):
    with pytest.raises(UserError, match="no such file"):
        EncodedCorpus.open(tmp_path / "nowhere")
    directory = tmp_path / "train"
    write_encoded(directory, PAIRS, tokenizers, max_length=100)
    ids = (directory / "source.ids").read_bytes()
    (directory / "source.ids").write_bytes(ids[:-1])
    with pytest.raises(UserError, match="damaged"):
        EncodedCorpus.open(directory)
    (directory / "source.ids").unlink()
    with pytest.raises(UserError, match=r"source\.ids: no such file"):
        EncodedCorpus.open(directory)
    meta = json.loads((directory / "meta.json").read_text())
    (directory / "meta.json").write_text(json.dumps(meta | {"version": 99}))
    with pytest.raises(UserError, match="version 99"):
        EncodedCorpus.open(directory)


# Books that balance

SIDES = st.lists(st.sampled_from(["a", "bb", "c d", "a  b", " ", "", "犬", "▁", "\0", "z" * 9, "<s>"])).map("".join)


PAIRS_AND_ONE = st.lists(st.tuples(SIDES, SIDES), max_size=20).map(lambda pairs: [*pairs, ("a", "ab")])  # this one fits


@pytest.fixture(scope="module", params=KINDS)
def some(request, tmp_path_factory):
    """Tokenizers of each kind that have not seen everything."""
    learnt = [Pair("a bb c d", "ab cd ▁"), Pair("zz", "aa\0")]
    return Tokenizers.learn(learnt, tmp_path_factory.mktemp("t"), TokenizerSettings(kind=request.param, vocab_size=99))


@given(pairs=PAIRS_AND_ONE, at_once=st.integers(1, 9))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_books_balance(tmp_path, some, pairs, at_once):
    """read = kept + dropped by reason; tokens = known + unknown, as the files on the disk have them."""
    longest = 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "PAIRS_AT_ONCE", at_once)
        corpus = write_encoded(tmp_path / "c", [Pair(*pair) for pair in pairs], some, max_length=longest)
    balance = corpus.balance
    assert balance.read == len(pairs) == balance.kept + sum(count.number for count in balance.dropped.values())
    assert balance.kept == len(corpus)
    for side, index, lengths, ids in (
        ("source", 0, corpus.source_lengths, corpus.source),
        ("target", 1, corpus.target_lengths, corpus.target),
    ):
        tokenizer = getattr(some, side)
        written = [token for i in range(len(corpus)) for token in ids(i).tolist()]
        assert balance.tokens[side] == len(written) == lengths.sum()
        count = balance.unknown[side]
        assert count.number == written.count(tokenizer.unk)
        if count.number:
            assert count.what == tokenizer.unknown(pairs[count.pair - 1][index])[0]
    for reason, count in balance.dropped.items():
        lengths = [len(some.source.encode([text])[0]) for text in pairs[count.pair - 1]]
        length = lengths["target" in reason]
        assert length == 0 if "empty" in reason else length >= longest
    compared = [pair[1] for pair in pairs[:at_once] if all(0 < len(some.source.encode([t])[0]) < longest for t in pair)]
    back = some.target.decode(some.target.encode(compared))
    assert balance.compared == len(compared)
    assert sum(count.number for count in balance.changed.values()) == sum(map(str.__ne__, back, compared))


def _tsv(path, pairs):
    (path / "pairs.tsv").write_bytes("".join(f"{source}\t{target}\n" for source, target in pairs).encode())
    return path / "pairs.tsv"


def _aligned(path, pairs):
    for side, lines in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
        (path / side).write_bytes("".join(f"{line}\n" for line in lines).encode())
    return {side: path / side for side in ("source", "target")}


def _jsonl(path, pairs):
    records = (json.dumps(dict(zip(("source", "target"), pair, strict=True))) for pair in pairs)
    (path / "pairs.jsonl").write_text("".join(f"{record}\n" for record in records))
    return path / "pairs.jsonl"


def _parquet(path, pairs):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = dict(zip(("source", "target"), map(list, zip(*pairs, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), path / "pairs.parquet")
    return path / "pairs.parquet"


@pytest.mark.parametrize("write", [_tsv, _aligned, _jsonl, _parquet])
@given(pairs=PAIRS_AND_ONE)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_books_are_the_same_for_every_reader(tmp_path, tokenizers, write, pairs):
    pairs = [("abc", "x y"), *pairs]
    direct = write_encoded(tmp_path / "direct", starmap(Pair, pairs), tokenizers, max_length=6).balance
    read = write_encoded(tmp_path / "read", read_pairs(write(tmp_path, pairs)), tokenizers, max_length=6).balance
    assert read == direct
    assert read.read == len(pairs)


def test_what_was_lost_is_said_in_a_line_each(tmp_path, tokenizers):
    pairs = [
        *PAIRS[:4],
        Pair("abc", ""),
        Pair("abXcX", "x y"),
        Pair("a" * 300, "x"),
        Pair("a", "x  y"),
        Pair("a", "q x "),
    ]
    corpus = write_encoded(tmp_path / "train", pairs, tokenizers, max_length=100)
    assert list(corpus.balance.losses()) == [
        "pairs left out: 2 of 9 (22.2 %): 1 empty target (first: pair 5), 1 source too long (first: pair 7)",
        "source tokens that the tokenizer does not know: 2 of 44 (4.55 %), first: 'X' (U+0058) in pair 6",
        "target tokens that the tokenizer does not know: 1 of 33 (3.03 %), first: 'q' (U+0071) in pair 9",
        "targets that the tokenizer does not give back as they are: 6 of 7 (85.7 %): 5 for spaces, which "
        "tokenizer.spaces=keep would keep (first: pair 1), 1 for unknown symbols (first: pair 9)",
    ]
    assert list(corpus.balance.rows()) == [
        "9 pairs read, 7 kept, 2 left out (1 empty target (first: pair 5), 1 source too long (first: pair 7))",
        "44 source tokens, 42 known, 2 unknown",
        "33 target tokens, 32 known, 1 unknown",
    ]


def test_of_a_clean_corpus_there_is_nothing_to_say(tmp_path, tokenizers):
    clean = [Pair(pair.source, pair.target.strip()) for pair in PAIRS]
    assert list(write_encoded(tmp_path / "train", clean, tokenizers, max_length=100).balance.losses()) == []


def test_a_corpus_that_was_written_before_there_was_a_balance(tmp_path, tokenizers):
    write_encoded(tmp_path / "train", PAIRS, tokenizers, max_length=50)
    meta = json.loads((tmp_path / "train" / "meta.json").read_text())
    del meta["balance"]
    (tmp_path / "train" / "meta.json").write_text(json.dumps(meta))
    balance = EncodedCorpus.open(tmp_path / "train").balance
    assert balance == Balance(20, 16, {"empty or too long": Count(4)}, balance.tokens)
    assert next(balance.losses()) == "pairs left out: 4 of 20 (20 %): 4 empty or too long"
    assert list(balance.rows())[1:] == [f"{balance.tokens[side]:,} {side} tokens" for side in ("source", "target")]
