"""Is the first line of a file of columns a pair, or does it name the columns?

Only what can hardly be a pair is taken for a header; of what could be either, the user is asked.
"""

import re
from collections.abc import Sequence

SOURCES = {
    *("source", "sources", "src", "source text", "source sentence", "input", "inputs", "input text"),
    *("word", "words", "grapheme", "graphemes", "spelling", "question", "source language"),
}
TARGETS = {
    *("target", "targets", "tgt", "trg", "target text", "target sentence", "output", "outputs", "output text"),
    *("pronunciation", "pronunciations", "phoneme", "phonemes", "phones", "ipa", "arpabet", "answer"),
    *("translation", "target language"),
}
OTHERS = {"id", "index", "text", "label", "sentence", "sentences", "score", "split", "lemma", "form", "key", "value"}
_LANGUAGES = """
    ar bg bn ca cs da de el en es et fa fi fr ga he hi hr hu id is it ja ko lt lv mk ms nb nl nn no pl pt ro ru sk sl sq
    sr sv sw ta th tl tr uk ur vi zh ara deu eng fra hin ita jpn kor nld pol por rus spa tur zho
    arabic chinese czech danish dutch english finnish french german greek hebrew hindi hungarian italian japanese korean
    norwegian polish portuguese romanian russian spanish swedish turkish ukrainian
"""
LANGUAGES = {*_LANGUAGES.split()}


def roles(names: Sequence[str]) -> tuple[int, int] | None:
    """Where a header says that source and target are: the one column named like a source, and like a target."""
    found = [[i for i, name in enumerate(map(_plain, names)) if name in known] for known in (SOURCES, TARGETS)]
    return (found[0][0], found[1][0]) if [len(places) for places in found] == [1, 1] else None


def are_languages(names: Sequence[str]) -> bool:
    """Whether these are different languages, by code or English name: `en`, `de-AT`, `German`."""
    plain = [re.sub(r"^([a-z]{2,3}) [a-z]{2,4}$", r"\1", _plain(name)) for name in names]
    return set(plain) <= LANGUAGES and len(set(map(_plain, names))) == len(names)


def may_be_names(names: Sequence[str]) -> bool:
    """Whether columns are often named so, all of them: `id`, `text`, `de`; it may yet be a pair."""
    plain = [_plain(name) for name in names]
    return set(plain) <= SOURCES | TARGETS | OTHERS | LANGUAGES and len(set(plain)) == len(plain)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]+", " ", name.strip(" #\"'")).casefold()
