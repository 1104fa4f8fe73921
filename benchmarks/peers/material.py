"""What all systems are given: the same pairs, cut into the same pieces, with the same ids, written once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qkv.config.loading import load_config
from qkv.files import new_directory, write_text
from qkv.run.preparation import prepare
from qkv.text.corpus import read_lines
from qkv.text.encoded import EncodedCorpus
from qkv.text.tokenizer import SPECIALS, Tokenizers

SIDES = {"source": "en", "target": "de"}
ONLY_PAIRS_UP_TO = 128  # tokens; all of Multi30k, and nothing is longer than a peer's positions


@dataclass(frozen=True)
class Material:
    """The directory that `prepare_material` has written.

    Attributes:
        path: recipe.yaml, run/ (qkv's tokenizer and encoded pairs), train.npz, train.en and train.de as pieces,
            vocabulary.txt.
        data: the data set's own directory.
    """

    path: Path
    data: Path

    @property
    def tokenizer(self) -> Path:
        """The joint SentencePiece model."""
        return self.path / "run" / "tokenizer" / "joint.model"

    @property
    def vocab_size(self) -> int:
        """Pieces, the special ones included."""
        return len((self.path / "vocabulary.txt").read_text("utf-8").splitlines()) + SPECIALS

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of every source and target, the end of sentence counted."""
        arrays = np.load(self.path / "train.npz")
        return np.diff(arrays["source_offsets"]), np.diff(arrays["target_offsets"])

    def test(self) -> tuple[list[str], list[str]]:
        """The raw sources and references of test2016."""
        return list(read_lines(self.data / "test2016.en")), list(read_lines(self.data / "test2016.de"))


def prepare_material(path: Path, data: Path, vocab_size: int, seed: int) -> Material:
    """Learn the joint BPE and encode the training pairs, unless that is done already."""
    if not path.is_dir():
        with new_directory(path) as new:
            _write(new, data, vocab_size, seed)
    return Material(path, data)


def _write(path: Path, data: Path, vocab_size: int, seed: int) -> None:
    recipe = {
        "run": str(path / "run"),
        "seed": seed,
        "data": {
            "root": str(data),
            "train": {"source": "train.en", "target": "train.de"},
            "validation": {"source": "val.en", "target": "val.de"},
            "max_length": ONLY_PAIRS_UP_TO,
        },
        "tokenizer": {"kind": "bpe", "vocab_size": vocab_size},
    }
    config = load_config(recipe)
    write_text(path / "recipe.yaml", config.to_yaml())
    prepared = prepare(config, resume=False)
    corpus, tokenizers = EncodedCorpus.open(prepared.run.encoded_path("train")), prepared.tokenizers
    arrays = {}
    for side, language in SIDES.items():
        sequences = [getattr(corpus, side)(index) for index in range(len(corpus))]
        arrays[f"{side}_ids"] = np.concatenate(sequences)
        arrays[f"{side}_offsets"] = np.cumsum([0, *map(len, sequences)])
        lines = (" ".join(tokenizers.source.pieces(ids[:-1])) for ids in sequences)
        write_text(path / f"train.{language}", "\n".join(lines) + "\n")
    np.savez(path / "train.npz", **arrays)
    write_text(path / "vocabulary.txt", "\n".join(_pieces(tokenizers)) + "\n")


def _pieces(tokenizers: Tokenizers) -> list[str]:
    """Every piece but the special ones, in the order of their ids."""
    tokenizer = tokenizers.source
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk}
    return tokenizer.pieces(i for i in range(tokenizer.vocab_size) if i not in special)
