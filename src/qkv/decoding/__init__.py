"""Floor 2: decoding. `search.py` is the way in."""

from qkv.decoding.search import Hypothesis, SearchOptions, beam_search, greedy, score_targets, search

__all__ = ["Hypothesis", "SearchOptions", "beam_search", "greedy", "score_targets", "search"]
