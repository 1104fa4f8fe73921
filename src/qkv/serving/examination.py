"""Looks at a model, as plain data: a search with all that it considered, what each head attended to, and more."""

import base64
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qkv.decoding.engines.contract import title
from qkv.decoding.hypothesis import Hypothesis, distinct
from qkv.decoding.options import SearchOptions
from qkv.errors import UserError
from qkv.inspection.ablation import Head, head_counts, heads_off
from qkv.inspection.attribution import METHODS, attribution_scores
from qkv.inspection.forced import record_pairs, with_end
from qkv.inspection.shapes import shapes_of_pair
from qkv.translator import Translator

LONGEST = 256  # tokens of a source or prefix: maps grow with the square of it
CANDIDATES = 10  # shown for each position


@dataclass(frozen=True)
class Look:
    """What to look at.

    Attributes:
        source: the text.
        options: how to search.
        prefix: what the output begins with, as text or ids.
        off: heads that are switched off.
        show: which of the n best to look closely at; the last one if there are fewer.
    """

    source: str
    options: SearchOptions
    prefix: str | Sequence[int] = ()
    off: Sequence[Head] = ()
    show: int = 0


class Subject:
    """A model to be looked at, one look at a time.

    Args:
        name: what the page calls it.
        translator: the model with its tokenizers and its own search options.
    """

    def __init__(self, name: str, translator: Translator):
        self.name, self.translator = name, translator
        self._lock = threading.Lock()  # heads are switched off on the model itself

    def describe(self) -> dict[str, Any]:
        """Its name, class, parameters, heads of each layer and kind, search options, and methods of attribution."""
        model = self.translator.model
        return {
            "name": self.name,
            "model": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "heads": head_counts(model),
            "options": self.translator.options.model_dump(),
            "methods": list(METHODS),
        }

    def examine(self, look: Look) -> dict[str, Any]:
        """Search, and look closely at one of the outputs found.

        Returns:
            Plain data. `note` says in a line where the engine that translates could not do all of this, or is None.

        Raises:
            UserError: if the text is blank or too long, the prefix cannot be, or a head does not exist.
        """
        ids, prefix = self._ids(look)
        with self._lock:
            with heads_off(self.translator.model, look.off):
                recorded, tree = self.translator.search_recorded(ids, look.options.widened(), prefix)
                searched = self._by_engine(ids, prefix, look)
                found = self._listed(recorded if searched is None else searched, look)
                chosen = found[min(look.show, len(found) - 1)]
                output = with_end(self.translator, chosen)
                [seen] = record_pairs(self.translator, [(ids, output)], candidates=CANDIDATES)
            intact = None
            if look.off:
                [best, *_], _ = self.translator.search_recorded(ids, look.options.changed(n_best=1), prefix)
                intact = self._output(best)
        return {
            "source": self._tokens(ids, source=True),
            "prefix": self._tokens(prefix),
            "n_best": [self._output(hypothesis) for hypothesis in found],
            "shown": found.index(chosen),
            "intact": intact,
            "note": self._note(whole=searched is None),
            "tree": {
                "reason": tree.reason,
                "path": tree.path(output),
                "candidates": [asdict(candidate) | self._token(candidate.token) for candidate in tree.candidates],
            },
            "read": self._tokens([self.translator.tokenizers.target.bos, *output[:-1]]),
            "target": self._tokens(output),
            "log_probabilities": seen.log_probabilities,
            "candidates": [
                [self._token(token) | {"log_probability": value} for token, value in row] for row in seen.candidates
            ],
            "maps": {kind: _packed(weights) for kind, weights in seen.attention.items()},
        }

    def attribute(self, look: Look, method: str) -> dict[str, Any]:
        """How much each source token mattered for each token of one of the outputs; see `inspection.attribution`.

        Returns:
            The tokens, and `scores` (target, source) in nats.

        Raises:
            UserError: as `examine`, and if there is no such method.
        """
        if method not in METHODS:
            raise UserError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        with self._lock, heads_off(self.translator.model, look.off):
            ids, output = self._shown(look)
            scores = attribution_scores(self.translator, ids, output, method)
        return {
            "method": method,
            "source": self._tokens(ids, source=True),
            "target": self._tokens(output),
            "scores": scores.tolist(),
        }

    def shapes(self, look: Look) -> dict[str, Any]:
        """The shapes of the pass along one of the outputs, alike layers in one line.

        Raises:
            UserError: as `examine`.
        """
        with self._lock, heads_off(self.translator.model, look.off):
            ids, output = self._shown(look)
            return shapes_of_pair(self.translator, ids, output, title=self.name).folded().to_data()

    def _shown(self, look: Look) -> tuple[list[int], list[int]]:
        """The ids of the source, and of the output that is to be looked at."""
        ids, prefix = self._ids(look)
        found = self._by_engine(ids, prefix, look)
        if found is None:
            found, _ = self.translator.search_recorded(ids, look.options.widened(), prefix)
        found = self._listed(found, look)
        return ids, with_end(self.translator, found[min(look.show, len(found) - 1)])

    def _by_engine(self, ids: list[int], prefix: list[int], look: Look) -> list[Hypothesis] | None:
        """What the translator's own engine finds; None where that is the model itself, or cannot do what is asked."""
        engine = self.translator.engine
        if engine.exact or look.off or (prefix and "prefix" in engine.lacks):
            return None
        [found] = self.translator.search([ids], look.options.widened(), prefixes=[prefix] if prefix else None)
        return found

    def _listed(self, found: Sequence[Hypothesis], look: Look) -> list[Hypothesis]:
        """The n best with different texts, as `Translator.n_best` lists them."""
        texts = self.translator.tokenizers.target.decode([hypothesis.tokens for hypothesis in found])
        return [found[index] for index in distinct(found, texts, look.options.n_best)]

    def _note(self, *, whole: bool) -> str | None:
        engine, reference = self.translator.engine, self.translator.reference
        if engine.exact:
            return None
        if whole:
            return f"Searched by {title(reference)}: {title(engine)}, which translates otherwise, cannot do this."
        return f"Translated by {title(engine)}; tree, probabilities and maps are those of {title(reference)}."

    def _ids(self, look: Look) -> tuple[list[int], list[int]]:
        """Of the source and the prefix."""
        if not look.source.strip():
            raise UserError("the source is blank: type something to translate")
        source, target = self.translator.tokenizers.source, self.translator.tokenizers.target
        ids = [*source.encode([look.source])[0], source.eos]
        prefix = target.encode([look.prefix])[0] if isinstance(look.prefix, str) else list(look.prefix)
        limit = min(LONGEST, self.translator.model.longest or LONGEST)
        for name, side in (("source", ids), ("prefix", prefix)):
            if len(side) > limit:
                raise UserError(f"the {name} has {len(side)} tokens; at most {limit} can be shown")
        return ids, prefix

    def _output(self, hypothesis: Hypothesis) -> dict[str, Any]:
        target = self.translator.tokenizers.target
        return asdict(hypothesis) | {
            "text": target.decode([hypothesis.tokens])[0],
            "pieces": target.pieces(hypothesis.tokens),
        }

    def _tokens(self, ids: Sequence[int], *, source: bool = False) -> list[dict[str, Any]]:
        tokenizers = self.translator.tokenizers
        pieces = (tokenizers.source if source else tokenizers.target).pieces(ids)
        return [{"token": token, "piece": piece} for token, piece in zip(ids, pieces, strict=True)]

    def _token(self, token: int) -> dict[str, Any]:
        """A token that a search might choose; special ones cannot be in a prefix."""
        target = self.translator.tokenizers.target
        special = token in (target.bos, target.eos, target.pad)
        return {"token": token, "piece": target.pieces([token])[0], "special": special}


def _packed(weights: np.ndarray) -> dict[str, Any]:
    """Weights as shape and 16-bit numbers (1 is 65,535; little-endian): a third of what they take as text."""
    numbers = (weights * 65535).round().astype("<u2")
    return {"shape": list(weights.shape), "data": base64.b64encode(numbers.tobytes()).decode("ascii")}
