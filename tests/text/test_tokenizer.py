"""Tokenizers: round trips, special ids, reproducible sampling, vocabularies of awkward sizes."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkv.errors import UserError
from qkv.text import tokenizer as tokenizer_module
from qkv.text.corpus import Pair
from qkv.text.tokenizer import LONGEST_LINE, Tokenizer, Tokenizers, _sample
from qkv.text.tokenizer_settings import KINDS, SPACES, UNAMBIGUOUS, TokenizerSettings

SENTENCES = [
    "ein kleiner Hund läuft über die Wiese",
    "zwei kleine Katzen laufen über die Straße",
    "der Hund und die Katze spielen auf der Wiese",
    "auf der Straße spielen zwei kleine Hunde",
]
PAIRS = [Pair(sentence, sentence.upper()) for sentence in SENTENCES]
ALPHABET = sorted(set("".join(SENTENCES)))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "source.model"
    return Tokenizer.learn(SENTENCES, path, TokenizerSettings(kind=request.param, vocab_size=60))


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "source.model"
    return Tokenizer.learn(SENTENCES, path, TokenizerSettings(kind="char", vocab_size=1000))


def test_round_trip_of_what_was_learnt_from(tokenizer):
    assert tokenizer.decode(tokenizer.encode(SENTENCES)) == SENTENCES


@given(text=st.text(st.sampled_from(ALPHABET)))
def test_char_round_trip_is_exact(characters, text):
    ids = characters.encode([text])[0]
    assert len(ids) == len(text)
    assert characters.decode([ids]) == [text]


def test_word_means_word(tmp_path):
    phones = ["K AE1 T", "D AO1 G", "K AO1"]
    tokenizer = Tokenizer.learn(phones, tmp_path / "m", TokenizerSettings(kind="word", vocab_size=1000))
    assert tokenizer.vocab_size == 4 + 6
    assert [tokenizer.pieces(ids) for ids in tokenizer.encode(["T AE1 K"])] == [["▁T", "▁AE1", "▁K"]]


def test_special_ids_are_distinct_and_never_encoded(tokenizer):
    special = [tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk]
    assert len(set(special)) == 4
    assert all(0 <= i < tokenizer.vocab_size for i in special)
    encoded = {i for ids in tokenizer.encode(SENTENCES) for i in ids}
    assert not encoded & set(special)
    assert tokenizer.encode([""]) == [[]]


def test_decode_leaves_special_ids_out(tokenizer):
    ids = tokenizer.encode(SENTENCES[:1])[0]
    dressed = [tokenizer.bos, *ids, tokenizer.eos, tokenizer.pad, tokenizer.pad]
    assert tokenizer.decode([dressed, [tokenizer.eos]]) == [SENTENCES[0], ""]
    assert tokenizer.decode([]) == []


def test_an_unknown_character_shows(tokenizer):
    ids = tokenizer.encode(["ein 犬 und 猫"])[0]
    assert ids.count(tokenizer.unk) == 2
    assert tokenizer.decode([ids]) == ["ein ⁇ und ⁇"]


def test_loading_gives_the_same_tokenizer(tmp_path):
    learnt = Tokenizer.learn(SENTENCES, tmp_path / "x.model", TokenizerSettings(kind="bpe", vocab_size=60))
    loaded = Tokenizer.load(tmp_path / "x.model")
    assert (loaded.kind, loaded.vocab_size, loaded.pad) == ("bpe", learnt.vocab_size, learnt.pad)
    assert loaded.encode(SENTENCES) == learnt.encode(SENTENCES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.json", "x.model"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_learning_is_reproducible(tmp_path, kind):
    for name in "ab":
        Tokenizer.learn(SENTENCES * 20, tmp_path / name, TokenizerSettings(kind=kind, vocab_size=50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sampling_is_reproducible(tmp_path, kind):
    tokenizer = Tokenizer.learn(SENTENCES, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=60))
    lines = SENTENCES * 3
    first = tokenizer.encode(lines, 0.3, seed=1)
    tokenizer.encode(lines, 0.3, seed=7)  # whatever was drawn in between
    assert tokenizer.encode(lines, 0.3, seed=1) == first
    assert tokenizer.encode_sampled(lines, 0.3, 1) == first
    assert tokenizer.encode(lines, 0.3, seed=2) != first
    assert first != tokenizer.encode(lines)
    assert first[:4] != first[4:8]  # the same sentence again is cut anew
    assert tokenizer.decode(first) == lines


def test_sampling_leaves_characters_alone(characters):
    assert characters.encode(SENTENCES, 0.5, seed=3) == characters.encode(SENTENCES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lines", [SENTENCES, ["a"], ["a b"], ["aaaa"]])
def test_a_vocabulary_larger_than_the_text_is_cut_down(tmp_path, kind, lines):
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=30_000))
    assert 4 < tokenizer.vocab_size < 1000
    assert tokenizer.decode(tokenizer.encode(lines)) == lines


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_vocabulary_smaller_than_the_alphabet(tmp_path, kind):
    needed = 4 + len(ALPHABET)  # the space is in it: as "▁", a character like others
    Tokenizer.learn(SENTENCES, tmp_path / "enough", TokenizerSettings(kind=kind, vocab_size=needed))
    with pytest.raises(UserError, match=f"vocab_size {needed - 1} is too small: .* are {needed}"):
        Tokenizer.learn(SENTENCES, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=needed - 1))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("kind", ["char", "word"])
def test_char_and_word_take_the_most_frequent_up_to_vocab_size(tmp_path, kind):
    lines = ["x x x y y z"]
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=6))
    assert tokenizer.vocab_size == 6
    assert tokenizer.unk in tokenizer.encode(["z"])[0]
    assert tokenizer.unk not in tokenizer.encode(["x"])[0]


def test_normalization(tmp_path):
    plain = Tokenizer.learn(["ﬁn Große"], tmp_path / "a", TokenizerSettings(kind="char", vocab_size=99))
    folded = Tokenizer.learn(
        ["ﬁn Große"], tmp_path / "b", TokenizerSettings(kind="char", vocab_size=99, normalization="nfkc_cf")
    )
    assert plain.decode(plain.encode(["ﬁn"])) == ["ﬁn"]
    assert folded.decode(folded.encode(["ﬁN"])) == ["fin"]


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(UserError, match="no text to learn from"):
        Tokenizer.learn(["", "  "], tmp_path / "m", TokenizerSettings(kind="unigram", vocab_size=100))


def test_joint_and_separate_tokenizers(tmp_path):
    joint = Tokenizers.learn(iter(PAIRS), tmp_path / "tok", TokenizerSettings(vocab_size=80))
    assert joint.joint
    assert joint.source is joint.target
    assert sorted(p.name for p in (tmp_path / "tok").iterdir()) == ["joint.model", "settings.json"]
    for text in PAIRS[0]:
        assert joint.source.decode(joint.target.encode([text])) == [text]

    settings = TokenizerSettings(joint=False, kind="bpe", vocab_size=70, target={"kind": "char"})
    Tokenizers.learn(iter(PAIRS), tmp_path / "tok", settings)
    separate = Tokenizers.load(tmp_path / "tok")  # not the joint one, which was there before
    assert not separate.joint
    assert (separate.source.kind, separate.target.kind) == ("bpe", "char")
    assert separate.source.decode(separate.source.encode(SENTENCES)) == SENTENCES
    assert separate.target.unk in separate.target.encode(["klein"])[0]  # it has seen upper case only


def test_loading_what_is_missing_or_damaged(tmp_path):
    with pytest.raises(UserError, match="no tokenizer here"):
        Tokenizers.load(tmp_path)
    Tokenizers.learn(PAIRS, tmp_path, TokenizerSettings(vocab_size=80))
    (tmp_path / "joint.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"joint\.model: not a SentencePiece model"):
        Tokenizers.load(tmp_path)
    (tmp_path / "joint.model").unlink()
    with pytest.raises(UserError, match=r"joint\.model: no such tokenizer"):
        Tokenizers.load(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match=r"settings\.json: not valid JSON"):
        Tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "unigrm"}, "kind: unknown kind 'unigrm'; did you mean unigram"),
        ({"normalization": "nfc"}, "normalization: unknown normalization 'nfc'; did you mean nfkc"),
        ({"vocab_size": 4}, "vocab_size: must be greater than 4, got 4"),
        ({"sampling": 1.5}, "sampling: must be less than or equal to 1, got 1.5"),
        ({"sampling": 0.1, "kind": "char"}, "sampling needs kind 'unigram' or 'bpe'"),
        ({"character_coverage": 0.0}, "character_coverage: must be greater than 0, got 0.0"),
        ({"source": {"kind": "char"}}, "need joint: false"),
        ({"joint": False, "source": {"vocabsize": 9}}, "unknown key source.vocabsize; did you mean source.vocab_size"),
        ({"joint": False, "target": {"kind": "words"}}, "target.kind: unknown kind 'words'; did you mean word"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        TokenizerSettings(**settings)


def test_a_side_that_says_nothing_is_like_one_that_is_not_there():
    """Its keys are spelled out as null in a run's config.yaml, joint or not."""
    said = {"kind": None, "vocab_size": None, "normalization": None, "character_coverage": None}
    assert TokenizerSettings(source={}, target=said).side("target") == TokenizerSettings()


def test_sampling_may_touch_one_side_only():
    settings = TokenizerSettings(joint=False, sampling=0.1, source={"kind": "char"})
    assert settings.side("source").kind == "char"
    assert settings.side("target").kind == "unigram"


def test_the_sample_is_fair_and_reproducible(monkeypatch):
    monkeypatch.setattr(tokenizer_module, "LEARN_FROM", 5)

    def sample(items, seed):
        return _sample(iter(items), lambda item: 1, seed, lambda item: None)

    assert sample(range(5), 0) == [0, 1, 2, 3, 4]
    assert sample(range(1000), 3) == sample(range(1000), 3) != sample(range(1000), 4)
    counts = [0] * 20
    for seed in range(2000):
        drawn = sample(range(20), seed)
        assert drawn == sorted(set(drawn))
        assert len(drawn) == 5
        for item in drawn:
            counts[item] += 1
    assert all(abs(count - 500) < 100 for count in counts)  # 5 standard deviations


def test_the_sample_is_limited_in_characters_too(monkeypatch):
    monkeypatch.setattr(tokenizer_module, "LEARN_FROM_CHARACTERS", 100)
    lines = ["x" * n for n in [30, 5, 40, 20, 5]]

    def _sample(items, size, seed):
        return tokenizer_module._sample(items, size, seed, lambda item: None)

    assert _sample(lines, len, 0) == lines
    for seed in range(100):
        drawn = _sample([*lines, *lines], len, seed)
        assert 60 < sum(map(len, drawn)) <= 100  # the next one, of 40 at most, did not fit
    assert _sample(["y" * 1000], len, 0) == ["y" * 1000]  # never nothing


# Every text survives

NASTY = [
    *"\0\t\r\n\x0b\x0c\x1c\x1f\x7f\x85\xa0\u3000\u2028\u2029\u200b\u200d\u2060\ufeff\u202e\ufffd\ufffe\uffff\ufdd0\ue000",
    *"▁▅⁇ <ab1Aéﬁİ😀𝔘犬ا\u0301\U00100000\U0010001b\U00102581\U0010fffd\U0010ffff",
    *("<s>", "</s>", "<unk>", "<pad>", "s>", "<0x0A>", "<2de>", "  ", " ⁇ ", "\r\r\n", "e\u0301", "👩\u200d🚀"),
]
TEXTS = st.lists(st.sampled_from(NASTY) | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)


def collapsed(text):
    return " ".join(word for word in text.split(" ") if word)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spaces", SPACES)
@given(lines=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_that_was_learnt_from_survives(tmp_path, kind, spaces, lines):
    """Characters of all planes, line ends, what is not to be seen, and what is spelled like a special piece."""
    lines = [*lines, "some text "]
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=5000, spaces=spaces))
    expected = lines if spaces == "keep" else [collapsed(line) for line in lines]
    for loaded in (tokenizer, Tokenizer.load(tmp_path / "m")):
        ids = loaded.encode(lines)
        assert loaded.decode(ids) == expected
        assert [loaded.unknown(line) for line in lines] == [[] for _ in lines]
        assert not any(loaded.unk in line for line in ids)
    if kind not in UNAMBIGUOUS:
        assert tokenizer.decode(tokenizer.encode(lines, 0.3, seed=1)) == expected


@pytest.fixture(scope="module", params=KINDS)
def keeping(request, tmp_path_factory):
    """A tokenizer that keeps spaces, of each kind."""
    settings = TokenizerSettings(kind=request.param, vocab_size=5000, spaces="keep")
    return Tokenizer.learn([*SENTENCES, "a  b  "], tmp_path_factory.mktemp("tokenizer") / "m", settings)


@settings(deadline=None)
@given(line=st.lists(st.sampled_from(["Hund", "Katze ", " ", "  ", "犬", "猫犬", "a", "▁", "<s>", "\0"])).map("".join))
def test_unknown_says_what_each_unk_stands_for(keeping, line):
    (ids,) = keeping.encode([line])
    unknown = keeping.unknown(line)
    assert len(unknown) == ids.count(keeping.unk)
    (text,) = keeping.decode([ids])
    assert "".join(f"{a}{b}" for a, b in zip(text.split("⁇"), [*unknown, ""], strict=True)) == line


def test_all_characters_of_unicode_are_learnt(tmp_path):
    """The first two planes whole, of the others every hundredth; the other kinds take the same characters."""
    every = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 101))]
    lines = ["".join(every[i : i + 1000]) for i in range(0, len(every), 1000)]
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", TokenizerSettings(kind="char", vocab_size=2_000_000))
    ids = tokenizer.encode(lines)
    assert not any(tokenizer.unk in line for line in ids)
    assert tokenizer.decode(ids) == lines


@pytest.mark.parametrize("kind", KINDS)
def test_lines_longer_than_sentencepiece_learns_from(tmp_path, kind):
    lines = ["ACGT" * 16_500, "ÄÖÜ " * 12_000, "x", "y" * (LONGEST_LINE // 4 - 1) + "\r" + "y" * LONGEST_LINE]
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", TokenizerSettings(kind=kind, vocab_size=40))
    ids = tokenizer.encode(lines)
    if kind == "word":  # one word of 66,000 letters is more than it takes: said, see test_encoded
        assert tokenizer.unknown(lines[0]) == lines[:1]
        assert tokenizer.unknown(lines[1]) == []
    else:
        assert not any(tokenizer.unk in line for line in ids)
        assert tokenizer.decode(ids) == [lines[0], lines[1] if kind == "char" else lines[1].strip(), *lines[2:]]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
def test_characters_outside_the_sample_are_learnt_too(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tokenizer_module, "LEARN_FROM", 30)
    pairs = [*PAIRS * 20, *(Pair(chr(0x4E00 + n), chr(0xAC00 + n)) for n in range(80))]
    for joint in (True, False):
        settings = TokenizerSettings(kind=kind, vocab_size=300, joint=joint)
        tokenizers = Tokenizers.learn(pairs, tmp_path / str(joint), settings)
        for side, tokenizer in enumerate((tokenizers.source, tokenizers.target)):
            lines = [pair[side] for pair in pairs]
            assert tokenizer.decode(tokenizer.encode(lines)) == lines


def test_a_rare_character_of_a_large_text_is_learnt(tmp_path):
    """SentencePiece sums up shares in single precision: of more than 2^25 characters one more is none."""
    lines = [*["ab" * 32_000] * 530, "犬"]
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", TokenizerSettings(kind="char", vocab_size=50))
    assert tokenizer.unknown("犬") == []


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
@pytest.mark.parametrize("normalization", ["identity", "nfkc"])
def test_asking_for_rare_characters_changes_nothing_else(tmp_path, monkeypatch, kind, normalization):
    settings = TokenizerSettings(kind=kind, vocab_size=60, normalization=normalization)
    lines = [*SENTENCES * 9, "ﬁ e\u0301"]
    usual = Tokenizer.learn(lines, tmp_path / "m", settings)
    monkeypatch.setattr(tokenizer_module, "EXACT_UP_TO", 500)
    asked = Tokenizer.learn(lines, tmp_path / "n", settings)
    assert asked.to_bytes() != usual.to_bytes()  # it has been asked
    assert asked.pieces(range(asked.vocab_size)) == usual.pieces(range(usual.vocab_size))
    assert asked.encode(lines) == usual.encode(lines)


@pytest.mark.parametrize("normalization", ["nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"])
@given(lines=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_normalisation_every_character_is_known(tmp_path, normalization, lines):
    lines = [*lines, "text"]
    settings = TokenizerSettings(kind="char", vocab_size=5000, normalization=normalization)
    tokenizer = Tokenizer.learn(lines, tmp_path / "m", settings)
    assert [tokenizer.unknown(line) for line in lines] == [[] for _ in lines]
    assert not any("⁇" in text for text in tokenizer.decode(tokenizer.encode(lines)))  # a literal one becomes "??"


def test_tokenizers_that_were_learnt_before_there_was_an_escape(tmp_path):
    """They hide nothing: a literal ▁ is the space that it was."""
    Tokenizer.learn(["a b ▁"], tmp_path / "m", TokenizerSettings(kind="char", vocab_size=50))
    listing = json.loads((tmp_path / "settings.json").read_text())
    assert listing["m"].pop("reserved") == ["\0", "\t", "\x1f", "▁", "▅"]
    (tmp_path / "settings.json").write_text(json.dumps(listing))
    before = Tokenizer.load(tmp_path / "m")
    assert before.decode(before.encode(["a▁b"])) == ["a b"]


def test_half_a_character_is_refused(keeping):
    with pytest.raises(UserError, match=r"^'a.ud800': a lone surrogate .* is not text$"):
        keeping.encode(["Hund", "a\ud800"])
