"""How fast a run is, as plain data and as tables."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from qkv.files import to_json
from qkv.measuring.environment import Environment
from qkv.pages.tables import Table


@dataclass(frozen=True)
class TrainingRate:
    """Steps of training over batches of the run's own pairs, as the trainer takes them.

    Attributes:
        precision: of matrix products.
        tokens_per_second: real target tokens, padding not counted: the median of the batches.
        batches: how many were timed.
        peak_megabytes: see `DecodingRate`.
    """

    precision: str
    tokens_per_second: float
    batches: int
    peak_megabytes: float | None


@dataclass(frozen=True)
class DecodingRate:
    """Translation from text to text, by one engine.

    Attributes:
        engine: torch or ctranslate2.
        precision: what it computes in.
        beam: its width; 1 is greedy.
        sentences: different ones that were translated together.
        sentences_per_second: the median, if there was time for several rounds.
        latency_median: milliseconds for a sentence alone.
        latency_p95: 95 of 100 took no longer.
        singles: how many sentences were translated alone.
        peak_megabytes: most memory of the process (of the GPU, if that is where it computes) while this was measured,
            all that was loaded before included; None where the system does not tell.
    """

    engine: str
    precision: str
    beam: int
    sentences: int
    sentences_per_second: float
    latency_median: float
    latency_p95: float
    singles: int
    peak_megabytes: float | None


@dataclass(frozen=True)
class Benchmark:
    """What was measured of a run.

    Attributes:
        run: its directory.
        checkpoint: the name of the checkpoint.
        parameters: numbers that the model has learnt.
        training: a row for each precision.
        decoding: a row for each engine, precision and beam.
        left_out: what could not be measured, and why.
        environment: machine and versions.
        seconds: how long it took.
    """

    run: str
    checkpoint: str
    parameters: int
    training: list[TrainingRate]
    decoding: list[DecodingRate]
    left_out: list[str]
    environment: Environment
    seconds: float

    def to_markdown(self) -> str:
        """Two tables, then what was left out and where this was."""
        return "\n\n".join(self._parts())

    def to_json(self) -> str:
        """All of it; the keys are the attributes' names."""
        return to_json(dataclasses.asdict(self), indent=1)

    def _parts(self) -> Iterator[str]:
        yield f"{self.run}, {self.checkpoint}: {self.parameters:,} parameters"
        training = [
            [row.precision, f"{row.tokens_per_second:,.0f}", str(row.batches), _megabytes(row.peak_megabytes)]
            for row in self.training
        ]
        if training:
            yield Table(["training", "target tokens/s", "batches", "peak MB"], training, numbers=3).to_markdown()
        decoding = [
            [
                f"{row.engine} {row.precision}",
                "greedy" if row.beam == 1 else f"beam {row.beam}",
                f"{row.sentences_per_second:,.1f}",
                f"{row.latency_median:,.1f}",
                f"{row.latency_p95:,.1f}",
                _megabytes(row.peak_megabytes),
            ]
            for row in self.decoding
        ]
        header = ["decoding", "search", "sentences/s", "median ms", "p95 ms", "peak MB"]
        yield Table(header, decoding, numbers=4).to_markdown()
        if self.left_out:
            yield "\n".join(f"Left out: {reason}" for reason in self.left_out)
        yield f"{self.environment}; {self.seconds:.0f} s. ms: for one sentence alone. MB: of the whole process."


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
