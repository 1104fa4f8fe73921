"""What a comparison has found, as plain data: what is measured of each variant, and under which conditions."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from qkv.evaluation.by_length import LengthBucket
from qkv.files import write_json
from qkv.measuring.environment import Environment
from qkv.measuring.speed import DecodingSpeed, LengthTime
from qkv.metrics import Score


@dataclass(frozen=True)
class TrainingPoint:
    """A report of training: nats per target token, without smoothing, since the report before."""

    step: int
    seconds: float
    target_tokens: int
    nll: float


@dataclass(frozen=True)
class ValidationPoint:
    """A look at the validation pairs: nats per target token, and the recipe's metric if that is not the loss."""

    step: int
    seconds: float
    target_tokens: int
    loss: float
    metric: float | None


@dataclass(frozen=True)
class Example:
    """A source, its first reference and what the model made of it."""

    source: str
    reference: str
    output: str


@dataclass(frozen=True)
class Measurement:
    """All that is measured of one trained variant.

    Attributes:
        architecture: its name.
        parameters: learnt numbers, shared ones counted once.
        steps: of the optimizer.
        target_tokens: learnt from, repetitions included.
        minutes: wall-clock time of training, validations included.
        tokens_per_second: target tokens; median over the reports of training; None if there were no reports.
        training: the learning curve.
        validation: the same on the validation pairs.
        validation_metric: `loss`, or the metric in `validation`.
        pairs_name: `test` or `validation`: what the scores are of.
        pairs: how many there are.
        beam: with which they were decoded.
        scores: in the order of the recipe's metrics.
        length_unit: `words` or `characters`.
        by_length: the first metric by the length of the source.
        decoding: its speed.
        times: against sequence length.
        examples: a few outputs.
        environment: where this was measured.
        date: when.
        bleu_tokenize: the recipe's.
    """

    architecture: str
    parameters: int
    steps: int
    target_tokens: int
    minutes: float
    tokens_per_second: float | None
    training: list[TrainingPoint]
    validation: list[ValidationPoint]
    validation_metric: str
    pairs_name: str
    pairs: int
    beam: int
    scores: list[Score]
    length_unit: str
    by_length: list[LengthBucket]
    decoding: DecodingSpeed
    times: list[LengthTime]
    examples: list[Example]
    environment: Environment
    date: str
    bleu_tokenize: str | None = None

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Measurement | None":
        """Read what `save` wrote; None if it is not there, damaged or of another version."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None


@dataclass(frozen=True)
class Row:
    """One variant: what was measured, or why it could not be trained.

    Attributes:
        name: of its run below the comparison's directory.
        values: what was chosen for the keys that are varied.
        measurement: None if it failed.
        failure: what went wrong.
    """

    name: str
    values: dict[str, str]
    measurement: Measurement | None = None
    failure: str | None = None

    @property
    def label(self) -> str:
        """The values alone where one key is varied: `lstm` rather than `architecture=lstm`."""
        return next(iter(self.values.values())) if len(self.values) == 1 else self.name
