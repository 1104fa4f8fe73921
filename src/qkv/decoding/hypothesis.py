"""What a search returns."""

from collections.abc import Sequence
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


def distinct(found: Sequence[Hypothesis], texts: Sequence[str], most: int) -> list[int]:
    """Which of a search's outputs to list, by index, the highest score first, which is the search's best.

    Of outputs of one text (a text may be cut into tokens in several ways) the one that the search put first stands for
    all. One that was cut off is listed if fewer have ended, but not above the best that has: a loop that never ends may
    have the highest score of all.
    """
    first = {text: index for index, text in reversed([*enumerate(texts)])}
    below = [index for index in sorted(first.values()) if found[index].score <= found[0].score]
    return sorted(below[:most], key=lambda index: -found[index].score)
