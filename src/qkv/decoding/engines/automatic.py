"""The engine that nobody named: on a CPU CTranslate2, where it is there and agrees with the model, and torch else.

Whatever torch could do can be done. What CTranslate2 cannot is left to torch: a sequence longer than its table of
positions, an output that begins with a prefix, a model that was changed after it was loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from qkv.decoding.cpu.packing import Watch
from qkv.decoding.engines import PRECISIONS
from qkv.decoding.engines.contract import Engine, EngineKind, Opening, Request, title
from qkv.decoding.engines.ctranslate2_cache import open_engine
from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.decoding.engines.torch_engine import TORCH
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.sentences import Row, in_order
from qkv.errors import UserError


class AutomaticEngine:
    """CTranslate2, and torch for what it cannot do; see `qkv.decoding.engines.contract.Engine`.

    Args:
        fast: searches and scores.
        opening: what torch is opened with when it is needed.
    """

    exact = False
    lacks: frozenset[str] = frozenset()

    def __init__(self, fast: CTranslate2Engine, opening: Opening):
        self.name, self.precision, self.shortlist = fast.name, fast.precision, fast.shortlist
        self.note, self.longest = f"engine {title(fast)}", opening.model.longest
        self._fast, self._opening = fast, opening
        self._torch: Engine | None = None
        self._watch = Watch(opening.model)
        self._exported = self._torch_has_seen = self._watch.seen()

    def search(
        self, request: Request, *, batch_tokens: int = 8192, on_progress: Callable[[int], object] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.search`."""

        def search(engine: Engine, indices: Sequence[int]) -> list[list[Hypothesis]]:
            prefixes = None if request.prefixes is None else [request.prefixes[index] for index in indices]
            part = replace(request, sources=[request.sources[index] for index in indices], prefixes=prefixes)
            return engine.search(part, batch_tokens=batch_tokens, on_progress=on_progress)

        able = request.prefixes is None or not any(request.prefixes)
        request = replace(request, prefixes=None) if able else request
        return self._share([len(source) if able else None for source in request.sources], search)

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""

        def score(engine: Engine, indices: Sequence[int]) -> list[list[float]]:
            return engine.score([sources[index] for index in indices], [targets[index] for index in indices])

        return self._share([max(len(a), len(b)) for a, b in zip(sources, targets, strict=True)], score)

    def _share(self, lengths: Sequence[int | None], work: Callable[[Engine, Sequence[int]], list[Row]]) -> list[Row]:
        """Rows in order: from CTranslate2 those that it has the length for, from torch the others."""
        now = self._watch.seen()
        changed = now != self._exported
        others = [i for i, length in enumerate(lengths) if changed or length is None or length > self._fast.longest]
        if not others:
            return work(self._fast, range(len(lengths)))
        if self._torch is None or self._torch_has_seen != now:
            self._torch, self._torch_has_seen = TORCH.open(self._opening), now
        fitting = sorted(set(range(len(lengths))).difference(others))
        return in_order([others, fitting], [work(self._torch, others), work(self._fast, fitting) if fitting else []])


def _open(opening: Opening) -> Engine:
    """CTranslate2 if it can do it, else torch; the note says why."""
    device = next(opening.model.parameters()).device
    try:
        if device.type == "cpu":
            return AutomaticEngine(open_engine(opening, temporary=False), opening)
        reason = f"the model is on {device}"
    except UserError as error:
        reason = str(error)
    except Exception as error:  # whatever is wrong with another package, torch does without
        reason = f"CTranslate2 failed: {type(error).__name__} {error}"
    engine = TORCH.open(opening)
    engine.note = f"engine {title(engine)}: {' '.join(reason.split())}"
    return engine


AUTO = EngineKind(PRECISIONS, _open)
