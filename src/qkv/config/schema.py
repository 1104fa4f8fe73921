"""What a recipe may say: every section, key, default and range."""

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from qkv.decoding.engines import PRECISIONS
from qkv.decoding.engines.registry import ENGINES
from qkv.decoding.options import SearchDefaults, SearchOptions
from qkv.metrics import METRICS
from qkv.metrics.tokenization import TOKENIZERS
from qkv.nn.architectures import ARCHITECTURES
from qkv.settings import OneOf, Section
from qkv.text.corpus import PairFiles
from qkv.text.tokenizer_settings import TokenizerSettings

VERSION = 1
"""Of recipes and run directories. Before 1 they carried none, and are read alike; see docs/versioning.md."""


def parse_duration(value: Any) -> Any:
    """Seconds from "90s", "15m", "1h30m" or a number; anything else is left for the schema to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value.strip())
    if not match or not any(match.groups()):
        raise ValueError(f'a duration is written like "90s", "15m" or "1h30m", not {value!r}')
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return 3600 * hours + 60 * minutes + seconds


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class DataConfig(Section):
    """Where the pairs are."""

    root: str = Field(".", description="directory that the paths below start from")
    train: PairFiles | None = Field(None, description="pairs to learn from: {source: FILE, target: FILE} or one FILE")
    validation: PairFiles | None = Field(None, description="pairs to watch progress, stop early and choose the best by")
    test: PairFiles | None = Field(None, description="pairs that `qkv evaluate` scores; never seen in training")
    max_length: int = Field(256, ge=2, description="training pairs with more tokens than this on a side are dropped")


class ModelConfig(Section):
    """The architecture and its options; what is not said comes from the preset, and else from the defaults."""

    model_config = ConfigDict(extra="allow")

    architecture: Annotated[str, OneOf("architecture", ARCHITECTURES)] = Field("transformer", description="its family")
    preset: str | None = Field(None, description="a named size; options that are given win over what it sets")

    @classmethod
    def key_names(cls) -> list[str]:
        """The options of all of qkv's own architectures included."""
        options = (option for name in ARCHITECTURES.built_in for option in ARCHITECTURES[name].option_names())
        return list(dict.fromkeys([*cls.model_fields, *options]))


class TrainingConfig(Section):
    """How the weights are found."""

    batch_tokens: Count = Field(4096, description="rows × longest sequence of a batch, at most")
    accumulate: Count = Field(1, description="batches summed up before each step of the optimizer")
    steps: Count | None = Field(None, description="stop after so many steps; null without epochs or budget: 50,000")
    epochs: Count | None = Field(None, description="stop after so many passes over the training pairs")
    budget: Duration | None = Field(
        None, description="wall-clock time (90s, 15m, 1h30m): training fits itself into it; the report comes after"
    )
    optimizer: Literal["adamw", "adam", "muon"] = Field(
        "adamw",
        description="adamw decays weights apart from the gradient; muon: that, but orthogonal steps of hidden matrices",
    )
    learning_rate: float = Field(1e-3, gt=0, description="at the end of warm-up (schedule: paper computes its own)")
    muon_learning_rate: float = Field(
        1e-2, gt=0, description="muon: of the hidden matrices, at the end of warm-up; learning_rate is that of the rest"
    )
    betas: tuple[Share, Share] = Field((0.9, 0.98), description="Adam's averaging of the gradient and of its square")
    eps: float = Field(1e-9, gt=0, description="Adam's guard against division by zero")
    weight_decay: float = Field(0.0, ge=0, description="pull of every matrix towards zero")
    schedule: Literal["paper", "inverse_sqrt", "cosine", "constant"] = Field(
        "inverse_sqrt", description="how the learning rate falls after warm-up; paper: d_model^-0.5 · step^-0.5"
    )
    warmup_steps: int = Field(1000, ge=0, description="steps over which the rate rises (a tenth of a budget at most)")
    cooldown: Share | None = Field(
        None, description="last share of the run, over which it falls to zero; null: 0.3 under a budget, else none"
    )
    label_smoothing: Share = Field(0.1, description="probability spread over all tokens (Szegedy et al. 2016)")
    r_drop: float = Field(
        0.0, ge=0, description="weight of R-Drop (Wu et al. 2021): two passes shall agree; twice the work (try 1 to 5)"
    )
    token_dropout: Share = Field(0.0, description="share of source tokens that are read as unknown ones")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null does not clip")
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="of matrix products while training")
    ema: Share = Field(0.0, description="decay of an exponential average of the weights, used in their place; 0: off")
    average_last: int = Field(
        0, ge=0, description="at the end, average the last so many (2 or more) checkpoints and keep it if it is better"
    )
    report_every: Count = Field(50, description="steps between lines of metrics.jsonl")


class ValidationConfig(Section):
    """How progress is judged."""

    every: Count | None = Field(None, description="steps between validations; null: once an epoch")
    metric: Annotated[str, OneOf("metric", METRICS, also=("loss",))] = Field(
        "loss", description="what the best checkpoint is chosen by"
    )
    patience: Count | None = Field(None, description="validations without a better metric before training stops")
    beam: Count = Field(1, description="beam for the metric; 1: greedy, which is quicker")
    max_examples: Count | None = Field(None, description="decode only the first so many validation pairs")
    samples: int = Field(2, ge=0, description="outputs shown at each validation")


class CheckpointsConfig(Section):
    """What is kept to resume from."""

    every: Count | None = Field(None, description="steps between checkpoints; null: at each validation")
    keep: Count = Field(3, description="newest checkpoints kept, beside the best (and those to be averaged)")


class DecodingConfig(SearchDefaults):
    """How outputs are searched for, unless the command line says otherwise."""

    batch_tokens: Count = Field(8192, description="source tokens × beam decoded together, at most")
    engine: Annotated[str, OneOf("engine", ENGINES)] = Field(
        "auto",
        description="what decodes: this library, or CTranslate2 (Transformers only; its own package); "
        "auto: CTranslate2 on a CPU if it is there and agrees with the model",
    )
    precision: Annotated[str, OneOf("precision", PRECISIONS)] = Field(
        "float32",
        description="of matrix products while decoding; int8: on a CPU, quicker; bf16: slow on a CPU without it",
    )
    shortlist: Count | None = Field(
        None, description="look only at so many target tokens for each source token (try 20); null: at all"
    )

    def search_options(self, **values: Any) -> SearchOptions:
        """These defaults as options of a search, some of them replaced."""
        return SearchOptions(**{name: getattr(self, name) for name in SearchDefaults.model_fields} | values)


class EvaluationConfig(Section):
    """How outputs are judged in the end."""

    metrics: list[Annotated[str, OneOf("metric", METRICS)]] = Field(
        ["bleu", "chrf"], description="what `qkv evaluate` measures"
    )
    bleu_tokenize: Annotated[str, OneOf("tokenizer", TOKENIZERS)] | None = Field(
        None, description="sacreBLEU's tokenizer for bleu, here and as validation.metric; null: as the script asks"
    )


class Config(Section):
    """A whole recipe."""

    version: int = Field(VERSION, ge=1, description="of this format (docs/versioning.md); recipes may leave it out")
    run: str = Field("runs/default", description="directory that the run is written to")
    seed: int = Field(1, ge=0, description="the same seed on the same machine gives the same run, bit for bit")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: Count | None = Field(None, description="CPU threads; null: all cores")
    data: DataConfig = DataConfig()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("version")
    @classmethod
    def _known(cls, version: int) -> int:
        if version > VERSION:
            raise ValueError(f"is {version}, of a newer qkv; this one reads up to {VERSION}: use that one")
        return version

    def to_yaml(self) -> str:
        """The configuration with every default spelled out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
