"""What a recipe may say: one schema, whose errors name the key."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from qkv.errors import UserError

MetricName = Literal["bleu", "chrf", "ter", "wer", "per", "cer", "exact_match"]


def parse_duration(value: Any) -> Any:
    """Seconds from "90s", "15m", "1h30m" or a number; anything else is left for the schema to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value.strip())
    if not match or not any(match.groups()):
        raise ValueError('a duration is written like "90s", "15m" or "1h30m"')
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


Duration = Annotated[float, BeforeValidator(parse_duration)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class FilesConfig(Section):
    """Pairs on disk: two aligned text files, or one TSV, JSONL or Parquet file."""

    path: str | None = Field(None, description="one file with both sides; its suffix tells the format")
    source: str | None = Field(None, description="a text file, one source sequence a line")
    target: str | None = Field(None, description="a text file, one target sequence a line, aligned with the source")
    format: Literal["tsv", "jsonl", "parquet"] | None = Field(None, description="if the suffix does not tell")
    source_column: str | int | None = Field(None, description="TSV: 0-based number (0); JSONL, Parquet: name (source)")
    target_column: str | int | None = Field(None, description="TSV: 0-based number (1); JSONL, Parquet: name (target)")


def _path_as_files(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Files = Annotated[FilesConfig, BeforeValidator(_path_as_files)]


class DataConfig(Section):
    """Where the pairs are."""

    root: str = Field(".", description="directory that the paths below start from")
    train: Files | None = Field(None, description="pairs to learn from: {source: FILE, target: FILE} or one FILE")
    validation: Files | None = Field(None, description="pairs to watch progress, stop early and choose the best by")
    test: Files | None = Field(None, description="pairs that `qkv evaluate` scores; never seen in training")
    max_length: int = Field(256, ge=2, description="training pairs with more tokens than this on a side are dropped")


class SideConfig(Section):
    """What one side's tokenizer does differently; needs joint: false."""

    kind: Literal["unigram", "bpe", "char", "word"] | None = Field(None, description="see tokenizer.kind")
    vocab_size: int | None = Field(None, ge=5, description="see tokenizer.vocab_size")
    normalization: Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"] | None = Field(
        None, description="see tokenizer.normalization"
    )
    character_coverage: float | None = Field(None, gt=0, le=1, description="see tokenizer.character_coverage")


class TokenizerConfig(Section):
    """How text becomes tokens: SentencePiece, learnt from the training pairs."""

    kind: Literal["unigram", "bpe", "char", "word"] = Field("unigram", description="what a token is")
    vocab_size: int = Field(8000, ge=5, description="tokens at most, special ones included")
    joint: bool = Field(True, description="one vocabulary for both sides")
    sampling: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="subword sampling while training: BPE-dropout probability, or smoothing alpha of unigram (try 0.1)",
    )
    normalization: Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"] = Field(
        "identity", description="Unicode normalisation (…_cf also folds case)"
    )
    character_coverage: float = Field(1.0, gt=0, le=1, description="share of characters kept; less drops rare ones")
    source: SideConfig | None = Field(None, description="what the source side does differently (joint: false)")
    target: SideConfig | None = Field(None, description="what the target side does differently (joint: false)")


class ModelConfig(BaseModel):
    """The architecture, and any option it has; what is not said comes from the preset, then from its defaults."""

    model_config = ConfigDict(extra="allow", frozen=True)

    architecture: str = Field("transformer", description="which family")
    preset: str | None = Field(None, description="a named size: tiny, small, base or big")


class TrainingConfig(Section):
    """How the weights are found."""

    batch_tokens: int = Field(4096, ge=1, description="rows × longest sequence of a batch, at most")
    accumulate: int = Field(1, ge=1, description="batches summed up before each step of the optimizer")
    steps: int | None = Field(None, ge=1, description="stop after so many steps")
    epochs: int | None = Field(None, ge=1, description="stop after so many passes over the training pairs")
    budget: Duration | None = Field(
        None,
        gt=0,
        description="wall-clock time (90s, 15m, 1h30m): the schedule fits itself and training ends within it",
    )
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="AdamW decays weights apart from the gradient")
    learning_rate: float = Field(1e-3, gt=0, description="at the end of warm-up (schedule: paper computes its own)")
    betas: tuple[Share, Share] = Field((0.9, 0.98), description="Adam's averaging of the gradient and of its square")
    eps: float = Field(1e-9, gt=0, description="Adam's guard against division by zero")
    weight_decay: float = Field(0.0, ge=0, description="pull of every matrix towards zero")
    schedule: Literal["paper", "inverse_sqrt", "cosine", "constant"] = Field(
        "inverse_sqrt",
        description="how the learning rate falls after warm-up; paper: d_model^-0.5 · step^-0.5",
    )
    warmup_steps: int = Field(
        1000, ge=0, description="steps over which the learning rate rises (a tenth of a budget at most)"
    )
    cooldown: Share | None = Field(
        None,
        description="last share of the run, over which it falls to zero; null: 0.3 under a budget, else none",
    )
    label_smoothing: Share = Field(0.1, description="probability spread over all tokens (Szegedy et al. 2016)")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null does not clip")
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="of matrix products while training")
    ema: Share = Field(0.0, description="decay of an exponential average of the weights, used in their place; 0: off")
    average_last: int = Field(
        0,
        ge=0,
        description="at the end, average the last so many checkpoints and keep the result if it is better",
    )
    report_every: int = Field(50, ge=1, description="steps between lines of metrics.jsonl")


class ValidationConfig(Section):
    """How progress is judged."""

    every: int | None = Field(None, ge=1, description="steps between validations; null: once an epoch")
    metric: Literal["loss"] | MetricName = Field("loss", description="what the best checkpoint is chosen by")
    patience: int | None = Field(None, ge=1, description="validations without a better metric before training stops")
    beam: int = Field(1, ge=1, description="beam for the metric; 1: greedy, which is quicker")
    max_examples: int | None = Field(None, ge=1, description="decode only the first so many validation pairs")
    samples: int = Field(2, ge=0, description="outputs shown at each validation")


class CheckpointsConfig(Section):
    """What is kept to resume from."""

    every: int | None = Field(None, ge=1, description="steps between checkpoints; null: at each validation")
    keep: int = Field(3, ge=1, description="newest checkpoints kept, beside the best (and those to be averaged)")


class DecodingConfig(Section):
    """How outputs are searched for, unless the command line says otherwise."""

    beam: int = Field(5, ge=1, description="hypotheses carried along; 1: greedy")
    length_penalty: float = Field(1.0, ge=0, description="score = log-probability / length^penalty")
    max_length_ratio: float = Field(2.0, ge=0, description="longest output: ratio × source length + extra")
    max_length_extra: int = Field(10, ge=0, description="see max_length_ratio")
    batch_tokens: int = Field(8192, ge=1, description="source tokens × beam decoded together, at most")


class EvaluationConfig(Section):
    """What `qkv evaluate` prints."""

    metrics: list[MetricName] = Field(["bleu", "chrf"], description="bleu, chrf, ter, wer, per, cer, exact_match")


class Config(Section):
    """A whole recipe."""

    run: str = Field("runs/default", description="directory that the run is written to")
    seed: int = Field(1, ge=0, description="the same seed on the same machine gives the same run, bit for bit")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, ge=1, description="CPU threads; null: all cores")
    data: DataConfig = Field(DataConfig(), description="")
    tokenizer: TokenizerConfig = Field(TokenizerConfig(), description="")
    model: ModelConfig = Field(ModelConfig(), description="")
    training: TrainingConfig = Field(TrainingConfig(), description="")
    validation: ValidationConfig = Field(ValidationConfig(), description="")
    checkpoints: CheckpointsConfig = Field(CheckpointsConfig(), description="")
    decoding: DecodingConfig = Field(DecodingConfig(), description="")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="")

    def to_yaml(self) -> str:
        """The configuration with every default spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(recipe: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `key.key=value` overrides.

    Raises:
        UserError: if the file cannot be read, or a key is unknown, or a value has the wrong type or range.
    """
    if isinstance(recipe, Config):
        data, origin = recipe.model_dump(), "the configuration"
    elif isinstance(recipe, Mapping):
        data, origin = dict(recipe), "the configuration"
    else:
        data, origin = _read_yaml(Path(recipe)), str(recipe)
    for override in overrides:
        _apply_override(data, override)
    return _validate(data, origin)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such recipe") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, not a {type(data).__name__}")
    return data


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r}: an override is written key=value, like training.steps=1000")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *sections, last = (_full_key(key) if "." not in key else key).split(".")
    for section in sections:
        inner = data.get(section)
        # A copy, so that a mapping which the caller handed in is not changed; a bare path becomes a mapping.
        data[section] = dict(inner) if isinstance(inner, Mapping) else {}
        data = data[section]
    data[last] = value


def _full_key(key: str) -> str:
    """`budget` for `training.budget`: a bare key may stand for the one section that has it."""
    if key in Config.model_fields:
        return key
    homes = [
        name
        for name, field in Config.model_fields.items()
        if isinstance(field.default, BaseModel) and key in type(field.default).model_fields
    ]
    return f"{homes[0]}.{key}" if len(homes) == 1 else key


def _validate(data: dict[str, Any], origin: str) -> Config:
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{origin}: {_explain(error)}") from None
    check_model(config.model, origin)
    return config


def _explain(error: ValidationError) -> str:
    """Pydantic's first error in one line that names the key."""
    first = error.errors()[0]
    where = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
    key = ".".join(str(part) for part in where)
    if first["type"] == "extra_forbidden":
        return _unknown_key(key, _keys_beside(where))
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower() + message[1:]}, got {first['input']!r}"


def _unknown_key(key: str, known: Sequence[str]) -> str:
    prefix, _, last = key.rpartition(".")
    nearest = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
    if nearest:
        return f"unknown key {key}; did you mean {f'{prefix}.' if prefix else ''}{nearest[0]}?"
    return f"unknown key {key}; known here: {', '.join(known)}"


def _keys_beside(location: Sequence[Any]) -> list[str]:
    """The keys of the section in which an unknown one was found."""
    section: type[BaseModel] = Config
    for part in location[:-1]:
        section = section_of(section, str(part)) or section
    return list(section.model_fields)


def section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of a nested section, or None if `name` is a plain value."""
    field = section.model_fields.get(name)
    if field is None:
        return None
    candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
    candidates += [argument for c in candidates for argument in getattr(c, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def check_model(model: ModelConfig, origin: str = "the configuration") -> None:
    """Refuse an unknown architecture, preset or option before anything is done. A vocabulary of 5 stands in.

    Raises:
        UserError: naming the key.
    """
    model_options(model, vocab_size=5, target_vocab_size=5, origin=origin)


def model_options(
    model: ModelConfig, *, vocab_size: int, target_vocab_size: int, origin: str = "the configuration"
) -> Any:
    """The architecture's own configuration object: its defaults, then the preset, then what the recipe says.

    Raises:
        UserError: naming the key that is unknown or has an impossible value.
    """
    from qkv.nn.architectures import ARCHITECTURES

    if model.architecture not in ARCHITECTURES:
        nearest = difflib.get_close_matches(model.architecture, ARCHITECTURES, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(ARCHITECTURES)}"
        raise UserError(f"{origin}: unknown model.architecture {model.architecture!r}; {hint}")
    architecture = ARCHITECTURES[model.architecture]
    if model.preset is not None and model.preset not in architecture.presets:
        raise UserError(
            f"{origin}: unknown model.preset {model.preset!r}; "
            f"{model.architecture} has {', '.join(architecture.presets)}"
        )
    said = model.model_extra or {}
    for name in said:
        if name not in architecture.option_names():
            raise UserError(f"{origin}: {_unknown_key(f'model.{name}', architecture.option_names())}")
    options = architecture.presets[model.preset] if model.preset else {}
    values = {"vocab_size": vocab_size, "target_vocab_size": target_vocab_size} | options | said
    try:
        return TypeAdapter(architecture.config).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"]:
            raise UserError(f"{origin}: model.{_explain(error)}") from None
        raise UserError(f"{origin}: model: {first['msg'].removeprefix('Value error, ')}") from None


def spelled_out(config: Config, options: Any) -> Config:
    """The configuration with every option of the model written down, except the vocabulary sizes."""
    values = dataclasses.asdict(options)
    said = {name: value for name, value in values.items() if name not in ("vocab_size", "target_vocab_size")}
    model = ModelConfig(architecture=config.model.architecture, preset=config.model.preset, **said)
    return config.model_copy(update={"model": model})
