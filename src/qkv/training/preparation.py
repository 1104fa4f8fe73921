"""What must lie in the run directory before the first step: configuration, tokenizers, encoded pairs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.config import Config, FilesConfig, model_options, spelled_out
from qkv.errors import UserError
from qkv.files import write_text
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import Seq2Seq
from qkv.run import Run
from qkv.text.corpus import Pair, PairFiles, read_pairs
from qkv.text.encoded import EncodedCorpus, write_encoded
from qkv.text.tokenizer import Tokenizers, TokenizerSettings
from qkv.training.progress import counting


@dataclass
class Prepared:
    """A run that is ready to be trained."""

    run: Run
    config: Config
    tokenizers: Tokenizers
    model_options: Any

    def build_model(self) -> Seq2Seq:
        """A freshly initialised model of the configured shape."""
        return ARCHITECTURES[self.config.model.architecture].build(self.model_options)


def pair_files(config: Config, name: str) -> PairFiles:
    """Where the pairs called `name` (train, validation, test) are, below data.root.

    Raises:
        UserError: if the recipe does not say, or says it wrongly.
    """
    files: FilesConfig | None = getattr(config.data, name)
    if files is None:
        raise UserError(
            f"data.{name} is not set: say data.{name}=FILE.tsv, or data.{name}.source= and data.{name}.target="
        )
    said = files.model_dump(exclude_none=True)
    for key in ("path", "source", "target"):
        if key in said:
            said[key] = os.path.join(config.data.root, said[key])
    try:
        return PairFiles.of(said)
    except UserError as error:
        raise UserError(f"data.{name}: {error}") from None


def prepare(config: Config, *, resume: bool) -> Prepared:
    """Make the run directory, learn the tokenizers and encode the pairs; when resuming, only what is missing.

    Raises:
        UserError: if the run exists already (or, when resuming, does not), or the data cannot be read.
    """
    run = Run(config.run)
    pair_files(config, "train")
    if not resume:
        _refuse_to_overwrite(run)
        _check_readable(config)
        write_text(run.config_path, config.to_yaml())
    tokenizers = _tokenizers(run, config)
    options = model_options(
        config.model, vocab_size=tokenizers.source.vocab_size, target_vocab_size=tokenizers.target.vocab_size
    )
    config = spelled_out(config, options)
    write_text(run.config_path, config.to_yaml())
    return Prepared(run, config, tokenizers, options)


def training_corpus(prepared: Prepared, epoch: int) -> EncodedCorpus:
    """The training pairs as tokens: one encoding for all epochs, or with subword sampling one for each."""
    config = prepared.config
    if config.tokenizer.sampling == 0.0:
        return _encoded(prepared, "train", "train", config.data.max_length)
    name = f"train-epoch-{epoch:05d}"
    corpus = _encoded(
        prepared,
        name,
        "train",
        config.data.max_length,
        config.tokenizer.sampling,
        seed=(config.seed << 20) + epoch,
    )
    for other in prepared.run.encoded_path(name).parent.glob("train-epoch-*"):
        if other.name != name:
            _remove_tree(other)
    return corpus


def validation_corpus(prepared: Prepared) -> EncodedCorpus | None:
    """The validation pairs as tokens, whatever their length; None if the recipe has none."""
    if prepared.config.data.validation is None:
        return None
    return _encoded(prepared, "validation", "validation", max_length=2**31)


def _encoded(
    prepared: Prepared, name: str, pairs_name: str, max_length: int, sampling: float = 0.0, seed: int = 0
) -> EncodedCorpus:
    path = prepared.run.encoded_path(name)
    if path.is_dir():
        return EncodedCorpus.open(path)
    pairs = read_pairs(pair_files(prepared.config, pairs_name))
    with counting(f"encoding {pairs_name}") as count:
        try:
            return write_encoded(
                path,
                pairs,
                prepared.tokenizers,
                max_length=max_length,
                sampling=sampling,
                seed=seed,
                progress=count,
            )
        except UserError as error:
            raise UserError(f"data.{pairs_name}: {error}") from None


def _refuse_to_overwrite(run: Run) -> None:
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UserError(
            f"{run.path}: exists already; go on with `qkv train --resume {run.path}`, or choose another run=DIRECTORY"
        )


def _check_readable(config: Config) -> None:
    """Read every file through once before anything is written: a fault on the last line is found now."""
    for name in ("train", "validation", "test"):
        if getattr(config.data, name) is not None:
            for _ in read_pairs(pair_files(config, name)):
                pass


def _tokenizers(run: Run, config: Config) -> Tokenizers:
    if (run.tokenizer_path / "settings.json").is_file():
        return Tokenizers.load(run.tokenizer_path)
    said = config.tokenizer.model_dump()
    for side in ("source", "target"):
        if said[side] is not None:
            said[side] = {key: value for key, value in said[side].items() if value is not None}
    pairs = _counted(read_pairs(pair_files(config, "train")), "learning the tokenizer")
    return Tokenizers.learn(pairs, run.tokenizer_path, TokenizerSettings(**said), seed=config.seed)


def _counted(pairs: Iterator[Pair], what: str) -> Iterator[Pair]:
    with counting(what) as count:
        number = 0
        for number, pair in enumerate(pairs, start=1):
            if number % 10_000 == 0:
                count(number)
            yield pair
        count(number)


def _remove_tree(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
