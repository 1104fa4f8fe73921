"""The encoded corpus: what goes in comes out, whole or not at all."""

import json

import numpy as np
import pytest

from qkv.errors import UserError
from qkv.text import encoded
from qkv.text.corpus import Pair
from qkv.text.encoded import EncodedCorpus, write_encoded
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings

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
    assert corpus.dropped == 0
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
    assert corpus.dropped == EncodedCorpus.open(tmp_path / "train").dropped == 5
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
