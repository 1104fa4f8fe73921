"""What a search returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search.

    Attributes:
        tokens: ids without beginning and end of sentence.
        score: what hypotheses are ranked by: log_probability / length ** length_penalty.
        log_probability: natural log-probability of all tokens, the end of sentence included.
        finished: whether it ended by itself; False if the length limit cut it off.
    """

    tokens: list[int]
    score: float
    log_probability: float
    finished: bool
