"""Strings to ids and back: SentencePiece (Kudo & Richardson 2018), learnt from the training pairs.

Four kinds: "unigram" (Kudo 2018) and "bpe" (Sennrich et al. 2016) cut words into pieces, "char" and "word"
take what their names say. A corpus of pairs has one joint tokenizer, or one for each side.

With `sampling` above 0 a text is cut differently each time it is drawn, which makes models robust: for
"unigram" it is the smoothing alpha of subword regularisation (Kudo 2018, section 3; the smaller, the more
varied), for "bpe" the probability that a merge is dropped (Provilkov et al. 2020, section 3); usual is 0.1.
"""

import heapq
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, SupportsInt, TypeVar

import sentencepiece

from qkv.errors import UserError
from qkv.files import write_bytes, write_json
from qkv.text.corpus import Pair
from qkv.text.escape import CHARACTERS, SPELLINGS, Escape
from qkv.text.sampling import BpeSampler, UnigramSampler
from qkv.text.tokenizer_settings import SIDES, UNAMBIGUOUS, SideSettings, TokenizerSettings

LEARN_FROM = 1_000_000  # pairs; more hardly change the vocabulary
LEARN_FROM_CHARACTERS = 50_000_000  # all of them must fit into memory: "unigram" takes 20 bytes for each
SPACE = "▁"  # how SentencePiece writes a space; a word begins with one
LONGEST_LINE = 1 << 16  # bytes; SentencePiece leaves longer lines out when learning, so they are cut
EXACT_UP_TO = 1 << 24  # characters; of more, a float32 does not tell whether all are covered

_WITHIN_SPELLINGS = re.compile("|".join(f"(?<={spelling[0]})(?={spelling[1:]})" for spelling in SPELLINGS))

Item = TypeVar("Item")


class Tokenizer:
    """Text to ids and back, for one side (or, if joint, for both).

    Attributes:
        kind: "unigram", "bpe", "char" or "word".
        pad, bos, eos, unk: the special ids: padding, begin, end, unknown piece.
        vocab_size: number of ids.
    """

    def __init__(self, model: bytes, kind: str, reserved: Sequence[str] = ()) -> None:
        self.kind = kind
        self._escape = Escape(reserved)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self.pad: int = self._processor.pad_id()
        self.bos: int = self._processor.bos_id()
        self.eos: int = self._processor.eos_id()
        self.unk: int = self._processor.unk_id()
        special = {self.pad, self.bos, self.eos, self.unk}
        self._id_of = {self._processor.id_to_piece(i): i for i in range(self.vocab_size) if i not in special}
        self._samplers: dict[float, UnigramSampler | BpeSampler] = {}

    @classmethod
    def learn(cls, lines: Sequence[str], path: str | Path, settings: TokenizerSettings) -> "Tokenizer":
        """Learn a model from lines of text; write it to `path`, and its settings to settings.json beside it.

        If the text does not hold `vocab_size` different pieces, the vocabulary is as large as it can be.

        Raises:
            UserError: there is no text in the lines, or vocab_size is smaller than the number of characters.
        """
        path, reserved = Path(path), _reserved(settings)
        model = _train(lines, settings, Escape(reserved))
        write_bytes(path, model)
        listing = path.parent / "settings.json"
        known = _read_settings(path.parent) if listing.exists() else {}
        said = settings.model_dump(include={*SideSettings.model_fields}) | {"reserved": reserved}
        write_json(listing, known | {path.name: said}, indent=2)
        return cls(model, settings.kind, reserved)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read what `learn` has written; `UserError` if the model or the settings.json is missing or damaged."""
        path = Path(path)
        settings = _read_settings(path.parent)
        if path.name not in settings or not path.is_file():
            raise UserError(f"{path}: no such tokenizer")
        try:
            said = settings[path.name]
            return cls(path.read_bytes(), said["kind"], said.get("reserved", ()))  # once there was no escape
        except (RuntimeError, KeyError, TypeError):
            raise UserError(f"{path}: not a SentencePiece model; the file is damaged") from None

    def encode(self, lines: Sequence[str], sampling: float = 0.0, *, seed: int = 0) -> list[list[int]]:
        """Ids of each line, without bos and eos. With `sampling` above 0, see `encode_sampled`."""
        if sampling > 0.0:
            return self.encode_sampled(lines, sampling, seed)
        try:
            ids: list[list[int]] = self._processor.encode(list(self._escape.hidden(lines)), out_type=int)
        except TypeError:  # bytes for SentencePiece cannot be made of half a character
            line = next(line for line in lines if re.search("[\ud800-\udfff]", line))
            raise UserError(f"{line[:40]!r}: a lone surrogate (\\ud800 to \\udfff) is not text") from None
        return ids

    def unknown(self, line: str) -> list[str]:
        """What each unk of `encode` stands for, in order: a word, or characters in a row that are not known."""
        (hidden,) = self._escape.hidden([line])
        ids, pieces = (self._processor.encode(hidden, out_type=kind) for kind in (int, str))
        unknown = [piece for i, piece in zip(ids, pieces, strict=True) if i == self.unk]
        if self.kind == "word":
            unknown = [piece.removeprefix(SPACE) for piece in unknown]
        return list(self._escape.shown([piece.replace(SPACE, " ") for piece in unknown]))

    def encode_sampled(self, lines: Sequence[str], alpha: float, seed: int) -> list[list[int]]:
        """Ids of each line, cut at random: a pure function of the lines, `alpha` and `seed`.

        "char" and "word" have one segmentation only, which is then the one drawn.
        """
        if self.kind in UNAMBIGUOUS:
            return self.encode(lines)
        if alpha not in self._samplers:
            scores = {piece: self._processor.get_score(i) for piece, i in self._id_of.items()}
            self._samplers[alpha] = (UnigramSampler if self.kind == "unigram" else BpeSampler)(scores, alpha)
        sampler, generator = self._samplers[alpha], random.Random(seed)
        encoded = []
        for line in self._escape.hidden(lines):
            words = re.split(f"(?={SPACE})", self._processor.normalize(line))
            ids = [self._id_of.get(piece, self.unk) for word in words for piece in sampler.cut(word, generator)]
            # As in `encode`, a run of unknown characters is one unknown piece.
            encoded.append([i for i, before in zip(ids, [None, *ids], strict=False) if i != self.unk or i != before])
        return encoded

    def decode(
        self, ids: Iterable[Iterable[SupportsInt]], unknown: Sequence[Sequence[str] | None] | None = None
    ) -> list[str]:
        """The text of each sequence of ids. pad, bos and eos are left out; unk shows as "⁇", or as the next of a
        sequence's symbols in `unknown`, where it has any there.

        What was encoded without unk comes back as it was, but for the spaces and the characters that the settings let
        change: `spaces: collapse` makes one space of several and none at the ends.
        """
        silent = {self.pad, self.bos, self.eos}
        kept = [[i for i in map(int, sequence) if i not in silent] for sequence in ids]
        texts: list[str] = self._processor.decode(kept) if kept else []  # SentencePiece makes "" of no sequences
        for index, symbols in enumerate(unknown or ()):
            if symbols is not None:
                texts[index] = self._filled(kept[index], symbols)
        if self.kind == "word":  # an unknown word brings its own space, which is one too many at the front
            texts = [
                text.removeprefix(" ") if self.unk in sequence[:1] else text
                for text, sequence in zip(texts, kept, strict=True)
            ]
        return list(self._escape.shown(texts))

    def _filled(self, ids: list[int], symbols: Sequence[str]) -> str:
        space, left = " " * (self.kind == "word"), iter(self._escape.hidden(symbols))
        pieces = self._processor.decode(ids, out_type="proto").pieces
        return "".join(space + next(left) if piece.id == self.unk else piece.surface for piece in pieces)

    def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
        """The piece of each id as SentencePiece spells it ("▁" for a space), special ones included."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def to_bytes(self) -> bytes:
        """The model as SentencePiece writes it to a file."""
        return bytes(self._processor.serialized_model_proto())


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of both sides; when joint, `source` and `target` are the same object."""

    source: Tokenizer
    target: Tokenizer

    @property
    def joint(self) -> bool:
        """Whether both sides share one vocabulary."""
        return self.source is self.target

    @classmethod
    def learn(
        cls, pairs: Iterable[Pair], directory: str | Path, settings: TokenizerSettings, *, seed: int = 0
    ) -> "Tokenizers":
        """Learn from pairs, in one pass over them, and write joint.model, or source.model and target.model.

        At most `LEARN_FROM` pairs and `LEARN_FROM_CHARACTERS` are used, drawn at random by `seed`; of the others only
        the characters. `UserError`: see `Tokenizer.learn`.
        """
        directory = Path(directory)
        others: tuple[set[str], set[str]] = (set(), set())

        def only_characters(pair: Pair) -> None:
            for characters, text in zip(others, pair, strict=True):
                characters.update(text)

        sample = _sample(pairs, lambda pair: len(pair[0]) + len(pair[1]), seed, only_characters)
        sources, targets = [pair[0] for pair in sample], [pair[1] for pair in sample]
        for lines, characters, side in zip((sources, targets), others, SIDES, strict=True):
            if characters and settings.side(side).covers_all:
                lines.extend(sorted(characters.difference(*lines)))
        (directory / "settings.json").unlink(missing_ok=True)  # without it, nothing half-written is loaded
        if settings.joint:
            joint = Tokenizer.learn(sources + targets, directory / "joint.model", settings)
            return cls(joint, joint)
        return cls(
            Tokenizer.learn(sources, directory / "source.model", settings.side("source")),
            Tokenizer.learn(targets, directory / "target.model", settings.side("target")),
        )

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizers":
        """Read what `learn` has written; `UserError` if something is missing or damaged."""
        directory = Path(directory)
        if "joint.model" in _read_settings(directory):
            joint = Tokenizer.load(directory / "joint.model")
            return cls(joint, joint)
        return cls(Tokenizer.load(directory / "source.model"), Tokenizer.load(directory / "target.model"))


def _sample(
    items: Iterable[Item], characters: Callable[[Item], int], seed: int, left_out: Callable[[Item], None]
) -> list[Item]:
    """As many of the items as the limits allow, each with the same chance, in one pass and in their order.

    Each item draws a number, and those with the lowest are kept; `left_out` is told the others.
    """
    generator = random.Random(seed)
    kept: list[tuple[float, int, Item]] = []  # a heap; on its top the highest number drawn, negated
    size, limit = 0, 1.0
    for number, item in enumerate(items):
        drawn = generator.random()
        if drawn >= limit:
            left_out(item)
            continue
        heapq.heappush(kept, (-drawn, number, item))
        size += characters(item)
        while len(kept) > 1 and (len(kept) > LEARN_FROM or size > LEARN_FROM_CHARACTERS):
            highest, _, item_left_out = heapq.heappop(kept)
            left_out(item_left_out)
            size -= characters(item_left_out)
            limit = -highest
    kept.sort(key=itemgetter(1))
    return [item for _, _, item in kept]


def _reserved(settings: TokenizerSettings) -> list[str]:
    """What goes through SentencePiece in a guise, but for what the normalisation makes something else of.

    Characters that stand like special pieces are known as characters; it is words that have to be told from them.
    """
    normalized = _normalization(settings)
    characters = [character for character in CHARACTERS if normalized(character) == character]
    return [*characters, *(SPELLINGS if settings.kind == "word" else ())]


def _normalization(settings: TokenizerSettings) -> Callable[[str], str]:
    """What becomes of the characters of a text; spaces stay."""
    normalizer = sentencepiece.SentencePieceNormalizer(
        rule_name=settings.normalization,
        add_dummy_prefix=False,
        escape_whitespaces=False,
        remove_extra_whitespaces=False,
    )
    normalized: Callable[[str], str] = normalizer.normalize
    return normalized


def _train(lines: Sequence[str], settings: TokenizerSettings, escape: Escape) -> bytes:
    lines = escape.hidden([line for line in lines if line.strip("" if settings.keeps_spaces else " ")])
    if not lines:
        raise UserError("tokenizer: there is no text to learn from; every line is empty")
    rare = _rare(lines, settings) if settings.covers_all else ""
    required: dict[str, Any] = {"required_chars": rare} if rare else {}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_digestible(lines, whole_words=settings.kind == "word"),
            model_writer=model,
            model_type=settings.kind,
            vocab_size=settings.vocab_size,
            hard_vocab_limit=False,
            character_coverage=settings.character_coverage,
            **required,
            normalization_rule_name=settings.normalization,
            add_dummy_prefix=settings.kind != "char",  # each character is one token
            remove_extra_whitespaces=not settings.keeps_spaces,
            max_sentence_length=LONGEST_LINE,
            unk_surface=" ⁇" if settings.kind == "word" else "⁇",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
        )
    except RuntimeError as error:
        too_small = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if too_small is None:
            raise UserError(f"tokenizer: SentencePiece could not learn from this text ({error})") from None
        raise UserError(
            f"tokenizer: vocab_size {settings.vocab_size} is too small: the characters of this text and the "
            f"special pieces alone are {too_small[1]}; set it to that or more, or lower character_coverage"
        ) from None
    return model.getvalue()


def _rare(lines: Sequence[str], settings: TokenizerSettings) -> str:
    """Characters that SentencePiece would leave out though all are to be covered: it sums up their shares in float32.

    Where the frequent ones alone come to 1, it stops, and the rest have to be asked for.
    """
    total = sum(map(len, lines))
    if total <= EXACT_UP_TO:
        return ""
    counts: Counter[str] = Counter()
    for line in map(_normalization(settings), lines):
        counts.update(line)
    return "".join(sorted(character for character, count in counts.items() if count < total / EXACT_UP_TO * 16))


def _digestible(lines: Iterable[str], whole_words: bool) -> Iterator[str]:
    """The lines as SentencePiece learns from them: what it would leave out or take for its own is cut."""
    for line in lines:
        for part in _parts(line, whole_words):
            yield f"{part} " if part.endswith(("\r", "\n")) else part  # it strips line ends


def _parts(line: str, whole_words: bool) -> Iterator[str]:
    at_most = LONGEST_LINE // 4  # a character is four bytes or less
    too_long = len(line) > at_most and len(line.encode("utf-8")) > LONGEST_LINE
    if whole_words:
        yield from line.split(" ") if too_long else [line]
        return
    for part in _WITHIN_SPELLINGS.split(line) if any(map(line.__contains__, SPELLINGS)) else [line]:
        yield from (part[i : i + at_most] for i in range(0, len(part), at_most)) if too_long else [part]


def _read_settings(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / "settings.json"
    try:
        settings = json.loads(path.read_text("utf-8"))
    except OSError:
        raise UserError(f"{directory}: no tokenizer here (settings.json is missing)") from None
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: not valid JSON; the file is damaged")
    return settings
