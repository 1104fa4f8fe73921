"""The comparison itself: train what is not trained, measure what is not measured, and write the report."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qkv.comparison.measure import measure, scored_pairs
from qkv.comparison.report import Comparison
from qkv.comparison.results import Measurement, Row
from qkv.comparison.variants import Variant, as_text, join_values, make_variants
from qkv.config.loading import model_options, spelled_out
from qkv.config.schema import Config
from qkv.devices import pick_device, undisturbed
from qkv.errors import UserError
from qkv.files import explained, new_directory, write_json, write_text
from qkv.measuring.environment import Environment, now
from qkv.metrics import METRICS
from qkv.progress import tell
from qkv.run.changes import flat
from qkv.run.directory import Run, check_name
from qkv.run.lock import locked
from qkv.run.preparation import pair_files, prepare, training_corpus, validation_corpus
from qkv.text.corpus import read_pairs
from qkv.training.trainer import resume

_DONE = "trained.json"
_MEASURED = "measurement.json"


def compare(
    recipe: str | Path | Mapping[str, Any] | Config,
    vary: Mapping[str, Sequence[Any]],
    *,
    budget: str | float | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    beam: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Train variants of a recipe under the same conditions, measure them, and write what was found.

    DIR/comparison.json is brought up to date after every variant; DIR/compare.html and DIR/compare.md are written at
    the end, or when it is interrupted. Called again, it goes on where it was, and uses whatever is there already. A
    variant that fails is reported, and tried again the next time.

    Args:
        recipe: a YAML file, a mapping, or a configuration.
        vary: key → values; several keys give every combination.
        budget: wall-clock time of each training, like "10m"; the recipe's own bounds by default.
        output: the directory; `runs/compare-RECIPE` by default.
        overrides: "key.key=value" strings that change the recipe for all variants.
        metrics: in place of the recipe's `evaluation.metrics`.
        beam: in place of the recipe's `decoding.beam`, for scores and decoding speed.
        progress: show on standard error what goes on.

    Raises:
        UserError: before anything is trained: if a key or value is unknown, the data cannot be read, or the directory
            holds variants of another recipe.
        KeyboardInterrupt: if it was interrupted; checkpoints were saved before.
    """
    texts = as_text(vary)
    file = None if isinstance(recipe, Mapping | Config) else str(recipe)
    directory = Path(output or Path("runs", "compare" if file is None else f"compare-{Path(file).stem}"))
    everywhere = [*overrides, *([] if budget is None else [f"training.budget={budget}"])]
    variants = make_variants(recipe, texts, everywhere, directory)
    _check(variants, metrics)
    comparison = Comparison(
        file or "the recipe",
        str(directory),
        None if file is None else _command(file, texts, overrides, budget, directory, metrics, beam),
        now(),
        Environment.here(str(pick_device(variants[0].config.device))),
        texts,
        [],
        _shared(variants),
    )
    try:
        for number, variant in enumerate(variants, start=1):
            if progress:
                tell(f"{number} of {len(variants)}: {variant.name}")
            with undisturbed(variant.config.threads):
                row = _row(variant, variants, metrics, beam, progress)
            environment = Environment.here(comparison.environment.device)
            comparison = replace(comparison, rows=[*comparison.rows, row], environment=environment, date=now())
            write_text(directory / "comparison.json", comparison.to_json())
    except KeyboardInterrupt:
        if progress:
            tell("interrupted; the same command goes on with the comparison")
        raise
    finally:
        if comparison.rows:
            write_text(directory / "compare.md", comparison.to_markdown())
            write_text(directory / "compare.html", comparison.to_html())
    return comparison


def _row(
    variant: Variant, variants: Sequence[Variant], metrics: Sequence[str] | None, beam: int | None, progress: bool
) -> Row:
    """One variant, from what is there already to its measurement."""
    config = variant.config
    metrics = list(metrics or config.evaluation.metrics)
    path = Path(config.run)
    found = Measurement.load(path / _MEASURED)
    beam_used = config.decoding.beam if beam is None else beam
    wanted = (metrics, beam_used, scored_pairs(config), config.evaluation.bleu_tokenize)
    if found is None or wanted != (
        [score.name for score in found.scores],
        found.beam,
        found.pairs_name,
        found.bleu_tokenize,
    ):
        try:
            if not (path / _DONE).is_file():
                _train(config, [other.config for other in variants], progress)
            found = measure(config, metrics, beam, progress=progress)
        except (UserError, torch.OutOfMemoryError) as error:
            if progress:
                tell(f"{variant.name} failed: {error}")
            return Row(variant.name, variant.values, failure=str(error))
        found.save(path / _MEASURED)
    return Row(variant.name, variant.values, found)


# Training


def _train(config: Config, others: Sequence[Config], progress: bool) -> None:
    """Train a variant from wherever it stands. What comes before the first step is no part of a wall-clock budget."""
    run = Run(config.run)
    with locked(run):
        if not run.config_path.is_file():
            donor = _donor(config, others)
            if donor is None:
                notices = prepare(config, resume=False).notices
                for notice in notices if progress else ():
                    tell(notice)
            else:
                write_text(run.config_path, config.to_yaml())
                _take_over(run, donor)
        if not run.checkpoints():
            prepared = prepare(config, resume=True)
            training_corpus(prepared, epoch=0)
            validation_corpus(prepared)
    # TensorBoard imports a lot when it is first used: time, and of the first budget alone.
    from torch.utils.tensorboard.writer import SummaryWriter  # noqa: F401

    resume(run.path, progress=progress)
    write_json(run.path / _DONE, {"date": now(), "checkpoint": run.checkpoints()[-1].name})


def _donor(config: Config, others: Sequence[Config]) -> Run | None:
    """A run whose tokenizers and encoded pairs are those that this one would make."""
    for other in others:
        run = Run(other.run)
        alike = (other.data, other.tokenizer, other.seed) == (config.data, config.tokenizer, config.seed)
        if other.run != config.run and alike and run.checkpoints() and run.tokenizer_path.is_dir():
            return run
    return None


def _take_over(run: Run, donor: Run) -> None:
    """Link the tokenizers, and the pairs that are encoded once for all epochs, into another run."""
    names = [donor.encoded_path(name) for name in ("train", "validation")]
    for source in [donor.tokenizer_path, *(path for path in names if path.is_dir())]:
        with explained(run.path), new_directory(run.path / source.relative_to(donor.path)) as new:
            shutil.copytree(source, new, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    """A second name for a file that nobody changes; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


# What is found out before anything is trained


def _check(variants: Sequence[Variant], metrics: Sequence[str] | None) -> None:
    METRICS.check(*metrics or [])
    for variant in variants:
        config = variant.config
        if config.data.test is None and config.data.validation is None:
            raise UserError("there is nothing to compare the variants on: the recipe has no data.test or .validation")
        if not (metrics or config.evaluation.metrics):
            raise UserError("there is nothing to compare the variants by: evaluation.metrics is empty; say --metrics")
        pick_device(config.device)
        for name in ("train", "validation", "test"):
            if name == "train" or getattr(config.data, name) is not None:
                next(read_pairs(pair_files(config, name)))
        _check_directory(variant)


def _check_directory(variant: Variant) -> None:
    """Refuse a run of that name which was made by another recipe."""
    run = Run(variant.config.run)
    check_name(run.path)
    if not run.path.exists() or (run.path.is_dir() and not any(run.path.iterdir())):
        return
    there, wanted = _settings(Run.open(run.path).config), _settings(variant.config)
    for key in dict.fromkeys([*wanted, *there]):
        if there.get(key) != wanted.get(key):
            raise UserError(
                f"{run.path}: was made by another recipe, in which {key} is {json.dumps(there.get(key))}, not "
                f"{json.dumps(wanted.get(key))}; choose another --output"
            )


def _settings(config: Config) -> dict[str, Any]:
    """All that a training depends on: dotted key → value."""
    options = model_options(config.model, vocab_size=5, target_vocab_size=5)
    return dict(flat(spelled_out(config, options).model_dump(mode="json", exclude={"run", "evaluation"})))


def _shared(variants: Sequence[Variant]) -> dict[str, Any]:
    """The settings in which all variants agree."""
    first, *rest = (_settings(variant.config) for variant in variants)
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in rest)}


def _command(
    recipe: str,
    vary: Mapping[str, Sequence[str]],
    overrides: Sequence[str],
    budget: str | float | None,
    directory: Path,
    metrics: Sequence[str] | None,
    beam: int | None,
) -> str:
    """The command line that says the same."""
    words = ["qkv", "compare", recipe, *overrides]
    for key, values in vary.items():
        words += ["--vary", f"{key}={join_values(values)}"]
    options = {
        "--budget": budget,
        "--output": directory,
        "--metrics": ",".join(metrics) if metrics else None,
        "--beam": beam,
    }
    for option, value in options.items():
        words += [] if value is None else [option, str(value)]
    return shlex.join(words)
