"""What must lie in the run directory before the first step: configuration, tokenizers, encoded pairs.

Tokenizers and encoded pairs carry a stamp of the files that they were made from; see `qkv.run.changes`.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qkv.config.loading import model_options, spelled_out
from qkv.config.schema import Config
from qkv.errors import UserError
from qkv.files import explained, new_directory, remove_directory, remove_leftovers, write_json, write_text
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import Seq2Seq
from qkv.progress import bar
from qkv.run.changes import check_stamp, stamp
from qkv.run.checksums import write_manifest
from qkv.run.directory import Run, check_name
from qkv.text.corpus import Pair, PairFiles, read_pairs
from qkv.text.encoded import EncodedCorpus, write_encoded
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import SIDES

_MADE_FROM = "made_from.json"


@dataclass
class Prepared:
    """A run that is ready to be trained.

    In `config` every option of the model is spelled out; `model_options` is the architecture's own object. `notices`
    are lines that the user should see before training, of what was found while it was made ready.
    """

    run: Run
    config: Config
    tokenizers: Tokenizers
    model_options: Any
    notices: list[str] = field(default_factory=list)

    def build_model(self) -> Seq2Seq:
        """A freshly initialised model."""
        return ARCHITECTURES[self.config.model.architecture].build(self.model_options)


def pair_files(config: Config, name: str) -> PairFiles:
    """Where the pairs called `name` (train, validation, test) are, below data.root; `UserError` if nobody says."""
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
        prepared = _prepare(run, config, [])
        _check_encoded(prepared)
        if not run.checkpoints():
            _check_known(prepared)
        return prepared
    refuse_to_overwrite(run)
    notices: list[str] = []
    for name in ("validation", "test"):  # a fault on the last line is found now, before anything is written;
        if getattr(config.data, name) is not None:  # the tokenizer reads the training pairs right after this
            for _ in read_pairs(pair_files(config, name), notices.append):
                pass
    new = not run.path.exists()
    write_text(run.config_path, config.to_yaml())
    try:
        prepared = _prepare(run, config, notices)
        _check_known(prepared)
        validation_corpus(prepared)
        return prepared
    except UserError:
        for path in run.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != run.lock_path:
                path.unlink()
        if new:  # else it is the lock's, or the user's, perhaps behind a link
            run.path.rmdir()
        raise


def _prepare(run: Run, config: Config, notices: list[str]) -> Prepared:
    tokenizers = _tokenizers(run, config, notices)
    options = model_options(
        config.model, vocab_size=tokenizers.source.vocab_size, target_vocab_size=tokenizers.target.vocab_size
    )
    limit = options.longest
    if limit is not None and config.data.max_length > limit:
        raise UserError(
            f"data.max_length is {config.data.max_length}, but model.position=learned has vectors for only "
            f"model.max_length={limit} positions; lower the one or raise the other"
        )
    return Prepared(run, spelled_out(config, options), tokenizers, options, notices)


def training_corpus(prepared: Prepared, epoch: int) -> EncodedCorpus:
    """The training pairs as tokens: one encoding for all epochs, or with subword sampling one for each."""
    config = prepared.config
    longest, sampling = config.data.max_length, config.tokenizer.sampling
    if sampling == 0.0:
        return _encoded(prepared, "train", longest)
    path = prepared.run.encoded_path(f"train-epoch-{epoch:05d}")
    seed = (config.seed << 20) + epoch
    corpus = _encoded(prepared, "train", longest, to=path.name, sampling=sampling, seed=seed)
    for other in path.parent.glob("train-epoch-*"):
        if other != path:
            remove_directory(other)
    return corpus


def validation_corpus(prepared: Prepared) -> EncodedCorpus | None:
    """The validation pairs as tokens, whatever their length; None if the recipe has none.

    `UserError` if one is longer than the positions that the model learns.
    """
    if prepared.config.data.validation is None:
        return None
    corpus = _encoded(prepared, "validation", max_length=2**31)
    longest = int(max(corpus.source_lengths.max(), corpus.target_lengths.max()))
    limit = prepared.model_options.longest
    if limit is not None and longest > limit:
        raise UserError(
            f"data.validation: the longest sequence has {longest} tokens, but model.position=learned has vectors "
            f"for only model.max_length={limit} positions; raise it, or leave that pair out"
        )
    return corpus


def _encoded(
    prepared: Prepared, name: str, max_length: int, *, to: str | None = None, sampling: float = 0.0, seed: int = 0
) -> EncodedCorpus:
    path = prepared.run.encoded_path(to or name)
    if path.is_dir():
        return EncodedCorpus.open(path)
    remove_leftovers(path.parent, f"{name}*")
    files = pair_files(prepared.config, name)
    learnt_from = prepared.run.tokenizer_path / _MADE_FROM
    if name == "train" and learnt_from.exists():
        check_stamp(json.loads(learnt_from.read_text(encoding="utf-8")), files, "data.train")
    try:
        return write_encoded(
            path,
            _counted(read_pairs(files), f"encoding {name}"),
            prepared.tokenizers,
            max_length=max_length,
            sampling=sampling,
            seed=seed,
            made_from=stamp(files),
        )
    except UserError as error:
        raise UserError(f"data.{name}: {error}") from None


def _check_encoded(prepared: Prepared) -> None:
    """Refuse encoded pairs that are not those of the files that the configuration names.

    Runs of before there were stamps are told by what their own configuration names.
    """
    for name in ("train", "validation"):
        named = getattr(prepared.config.data, name)
        for path in [] if named is None else prepared.run.encoded_path(name).parent.glob(f"{name}*"):
            made_from = EncodedCorpus.open(path).made_from
            if made_from is not None:
                check_stamp(made_from, pair_files(prepared.config, name), f"data.{name}")
            elif named != getattr(prepared.run.config.data, name):
                raise UserError(
                    f"data.{name}: this run was made from other files, and has no stamp that tells their like"
                )


def _check_known(prepared: Prepared) -> None:
    """Refuse, before the first step, unknown tokens in training pairs whose every character was to be learnt."""
    unknown = training_corpus(prepared, epoch=0).balance.unknown_tokens()
    for side in SIDES:
        settings = prepared.config.tokenizer.side(side)
        if side in unknown and settings.covers_all:
            raise UserError(
                f"data.train: {unknown[side]}, though tokenizer.character_coverage is 1; raise tokenizer.vocab_size "
                f"({settings.vocab_size}), or allow it by a character_coverage below 1"
            )


def losses(prepared: Prepared, epoch: int) -> Iterator[str]:
    """A line for everything of the pairs that this training does not see as it stands in the files."""
    for name, corpus in (("train", training_corpus(prepared, epoch)), ("validation", validation_corpus(prepared))):
        if corpus is not None:
            yield from (f"data.{name}: {line}" for line in corpus.balance.losses())


def refuse_to_overwrite(run: Run) -> None:
    """Leave alone, by `UserError`, what exists already, but for an empty directory; and refuse an impossible name."""
    check_name(run.path)
    if run.path.exists() and (not run.path.is_dir() or set(run.path.iterdir()) - {run.lock_path}):
        raise UserError(
            f"{run.path}: exists already; go on with `qkv train --resume {run.path}`, or choose another run=DIRECTORY"
        )


def _tokenizers(run: Run, config: Config, notices: list[str]) -> Tokenizers:
    if run.tokenizer_path.is_dir():
        return run.tokenizers()
    files = pair_files(config, "train")
    pairs = _counted(read_pairs(files, notices.append), "learning the tokenizer")
    with explained(run.tokenizer_path), new_directory(run.tokenizer_path) as new:
        write_json(new / _MADE_FROM, stamp(files))
        tokenizers = Tokenizers.learn(pairs, new, config.tokenizer, seed=config.seed)
        write_manifest(new)
        return tokenizers


def _counted(pairs: Iterator[Pair], what: str) -> Iterator[Pair]:
    with bar(None, "pairs", what=what, delay=1.0) as advance:
        for number, pair in enumerate(pairs, start=1):
            if number % 10_000 == 0:
                advance(10_000)
            yield pair
