"""What must lie in the run directory before the first step: configuration, tokenizers, encoded pairs.

Tokenizers and encoded pairs carry a stamp of the files that they were made from; see `qkv.run.changes`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qkv.config.loading import model_options, spelled_out
from qkv.config.schema import Config
from qkv.errors import UserError
from qkv.files import new_directory, remove_directory, remove_leftovers, to_json, write_text
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import Seq2Seq
from qkv.progress import bar
from qkv.run.changes import Stamp, check_stamp, stamp
from qkv.run.checksums import write_manifest
from qkv.run.directory import Run
from qkv.text.corpus import Pair, PairFiles, read_pairs
from qkv.text.encoded import PAIRS_AT_ONCE, EncodedCorpus, write_encoded
from qkv.text.tokenizer import Tokenizers


@dataclass
class Prepared:
    """A run that is ready to be trained.

    Attributes:
        run: its directory.
        config: with every option of the model spelled out.
        tokenizers: of both sides.
        model_options: the architecture's own configuration object.
    """

    run: Run
    config: Config
    tokenizers: Tokenizers
    model_options: Any

    def build_model(self) -> Seq2Seq:
        """A freshly initialised model."""
        return ARCHITECTURES[self.config.model.architecture].build(self.model_options)


def pair_files(config: Config, name: str) -> PairFiles:
    """Where the pairs called `name` (train, validation, test) are, below data.root.

    Raises:
        UserError: if the recipe does not say.
    """
    files: PairFiles | None = getattr(config.data, name)
    if files is None:
        raise UserError(
            f"data.{name} is not set: say data.{name}=FILE.tsv, or data.{name}.source= and data.{name}.target="
        )
    return files.below(config.data.root)


def prepare(config: Config, *, resume: bool) -> Prepared:
    """Make the run directory and learn the tokenizers; when resuming, only what is missing.

    Raises:
        UserError: if the run exists already, the data cannot be read or the model does not fit it; a run directory
            that was made here is gone again, so that the mended recipe can be run. When resuming, if what is there
            was made from other data.
    """
    run = Run(config.run)
    pair_files(config, "train")
    if resume:
        prepared = _prepare(run, config)
        _check_encoded(prepared)
        return prepared
    refuse_to_overwrite(run)
    _check_readable(config)
    write_text(run.config_path, config.to_yaml())
    try:
        prepared = _prepare(run, config)
        training_corpus(prepared, epoch=0)
        validation_corpus(prepared)
        return prepared
    except UserError:
        shutil.rmtree(run.path, ignore_errors=True)
        raise


def _prepare(run: Run, config: Config) -> Prepared:
    tokenizers = _tokenizers(run, config)
    options = model_options(
        config.model, vocab_size=tokenizers.source.vocab_size, target_vocab_size=tokenizers.target.vocab_size
    )
    limit = options.longest
    if limit is not None and config.data.max_length > limit:
        raise UserError(
            f"data.max_length is {config.data.max_length}, but model.position=learned has vectors for only "
            f"model.max_length={limit} positions; lower the one or raise the other"
        )
    return Prepared(run, spelled_out(config, options), tokenizers, options)


def training_corpus(prepared: Prepared, epoch: int) -> EncodedCorpus:
    """The training pairs as tokens: one encoding for all epochs, or with subword sampling one for each."""
    longest, sampling = prepared.config.data.max_length, prepared.config.tokenizer.sampling
    if sampling == 0.0:
        return _encoded(prepared, "train", "train", longest)
    path = prepared.run.encoded_path(f"train-epoch-{epoch:05d}")
    corpus = _encoded(prepared, path.name, "train", longest, sampling, _seed(prepared, epoch))
    for other in path.parent.glob("train-epoch-*"):
        if other != path:
            remove_directory(other)
    return corpus


def _seed(prepared: Prepared, epoch: int) -> int:
    """Of the subword sampling of an epoch."""
    return (prepared.config.seed << 20) + epoch


def validation_corpus(prepared: Prepared) -> EncodedCorpus | None:
    """The validation pairs as tokens, whatever their length; None if the recipe has none.

    Raises:
        UserError: if one is longer than the positions that the model learns.
    """
    if prepared.config.data.validation is None:
        return None
    corpus = _encoded(prepared, "validation", "validation", max_length=2**31)
    longest = int(max(corpus.source_lengths.max(), corpus.target_lengths.max()))
    limit = prepared.model_options.longest
    if limit is not None and longest > limit:
        raise UserError(
            f"data.validation: the longest sequence has {longest} tokens, but model.position=learned has vectors "
            f"for only model.max_length={limit} positions; raise it, or leave that pair out"
        )
    return corpus


def _encoded(
    prepared: Prepared, name: str, pairs_name: str, max_length: int, sampling: float = 0.0, seed: int = 0
) -> EncodedCorpus:
    path = prepared.run.encoded_path(name)
    if path.is_dir():
        return EncodedCorpus.open(path)
    remove_leftovers(path.parent, f"{pairs_name}*")
    files = pair_files(prepared.config, pairs_name)
    learnt_from = _stamp_of_tokenizers(prepared.run) if pairs_name == "train" else None
    if learnt_from is not None:
        check_stamp(learnt_from, files, "data.train")
    try:
        return write_encoded(
            path,
            _counted(read_pairs(files), f"encoding {pairs_name}"),
            prepared.tokenizers,
            max_length=max_length,
            sampling=sampling,
            seed=seed,
            made_from=learnt_from or stamp(files),
        )
    except UserError as error:
        raise UserError(f"data.{pairs_name}: {error}") from None


def _check_encoded(prepared: Prepared) -> None:
    """Refuse encoded pairs that are not those of the files that the configuration names.

    Runs of before there were stamps are told by their first pairs, which are encoded once more.
    """
    for name in ("train", "validation"):
        if getattr(prepared.config.data, name) is None:
            continue
        files = pair_files(prepared.config, name)
        for path in sorted(prepared.run.encoded_path(name).parent.glob(f"{name}*")):
            corpus = EncodedCorpus.open(path)
            if corpus.made_from is not None:
                check_stamp(corpus.made_from, files, f"data.{name}")
            elif _exist(files) and not _begins_like(corpus, prepared, files):
                raise UserError(
                    f"data.{name}: this run was made from other pairs than those there are now; put the old ones "
                    "there, or train another run"
                )


def _exist(files: PairFiles) -> bool:
    return all(os.path.exists(path) for path in (files.path, files.source, files.target) if path is not None)


def _begins_like(corpus: EncodedCorpus, prepared: Prepared, files: PairFiles) -> bool:
    """Whether the first pairs of some files, encoded as a corpus was, are the first of that corpus."""
    _, is_epoch, epoch = corpus.directory.name.partition("-epoch-")
    sampling, seed = (prepared.config.tokenizer.sampling, _seed(prepared, int(epoch))) if is_epoch else (0.0, 0)
    with tempfile.TemporaryDirectory() as directory:
        again = write_encoded(
            Path(directory) / "first",
            islice(read_pairs(files), PAIRS_AT_ONCE),
            prepared.tokenizers,
            max_length=corpus.max_length,
            sampling=sampling,
            seed=seed,
        )
    is_all = len(again) + again.dropped < PAIRS_AT_ONCE
    if len(again) > len(corpus) or (is_all and len(again) < len(corpus)):
        return False
    rows = np.arange(len(again))
    return all(
        np.array_equal(found, expected)
        for side in zip(again.rows(rows), corpus.rows(rows), strict=True)
        for found, expected in zip(*side, strict=True)
    )


def refuse_to_overwrite(run: Run) -> None:
    """Leave alone what exists already, but for an empty directory.

    Raises:
        UserError: if there is something.
    """
    if run.path.exists() and (not run.path.is_dir() or set(run.path.iterdir()) - {run.lock_path}):
        raise UserError(
            f"{run.path}: exists already; go on with `qkv train --resume {run.path}`, or choose another run=DIRECTORY"
        )


def _check_readable(config: Config) -> None:
    """Read the files through once before anything is written: a fault on the last line is found now.

    The training pairs are the exception: they may be many, and the tokenizer learns from them right after this.
    """
    for name in ("validation", "test"):
        if getattr(config.data, name) is not None:
            for _ in read_pairs(pair_files(config, name)):
                pass


def _tokenizers(run: Run, config: Config) -> Tokenizers:
    if run.tokenizer_path.is_dir():
        return run.tokenizers()
    files = pair_files(config, "train")
    pairs = _counted(read_pairs(files), "learning the tokenizer")
    made_from = stamp(files)
    try:
        with new_directory(run.tokenizer_path) as new:
            tokenizers = Tokenizers.learn(pairs, new, config.tokenizer, seed=config.seed)
            (new / _MADE_FROM).write_text(to_json(made_from, indent=1), encoding="utf-8")
            write_manifest(new)
            return tokenizers
    except OSError as error:
        raise UserError(f"{run.tokenizer_path}: cannot be written ({error.strerror or error})") from None


_MADE_FROM = "made_from.json"


def _stamp_of_tokenizers(run: Run) -> Stamp | None:
    path = run.tokenizer_path / _MADE_FROM
    made_from: Stamp | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return made_from


def _counted(pairs: Iterator[Pair], what: str) -> Iterator[Pair]:
    with bar(None, "pairs", what=what, delay=1.0) as advance:
        for number, pair in enumerate(pairs, start=1):
            if number % 10_000 == 0:
                advance(10_000)
            yield pair
