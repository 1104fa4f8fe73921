"""Looks at a model, as plain data: a search with all that it considered, what each head attended to, and more."""

import base64
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from qkv.decoding.beam import beam_search
from qkv.decoding.beam_tree import BeamRecord
from qkv.decoding.hypothesis import Hypothesis, SearchOptions
from qkv.decoding.scoring import next_tokens
from qkv.errors import UserError
from qkv.inspection.ablation import Head, head_counts, heads_off
from qkv.inspection.attribution import METHODS, attribution_scores
from qkv.inspection.shapes import shapes_of_model
from qkv.nn.seq2seq import AttentionRecord
from qkv.translator import Translator

LONGEST = 256  # tokens of a source or prefix: maps grow with the square of it
CANDIDATES = 10  # shown for each position


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

    def examine(
        self,
        source: str,
        *,
        options: SearchOptions,
        prefix: str | Sequence[int] = (),
        off: Sequence[Head] = (),
        show: int = 0,
    ) -> dict[str, Any]:
        """Search, and look closely at one of the outputs found.

        Args:
            source: the text.
            options: how to search.
            prefix: what the output begins with, as text or ids.
            off: heads that are switched off.
            show: which of the n best to look at; the last one if there are fewer.

        Raises:
            UserError: if the text is blank or too long, the prefix cannot be, or a head does not exist.
        """
        ids = self._source_ids(source)
        prefix_ids = self._prefix_ids(prefix)
        with self._lock, torch.inference_mode():
            with heads_off(self.translator.model, off):
                found, record = self._search(ids, options, prefix_ids)
                chosen = found[min(show, len(found) - 1)]
                looked_at = self._look(ids, chosen)
            intact = None
            if off:
                [best, *_], _ = self._search(ids, options.changed(n_best=1), prefix_ids)
                intact = self._output(best)
        tree = record.trees[0]
        output = self._with_end(chosen)
        return {
            "source": self._tokens(ids, source=True),
            "prefix": self._tokens(prefix_ids),
            "n_best": [self._output(hypothesis) for hypothesis in found],
            "shown": found.index(chosen),
            "intact": intact,
            "tree": {
                "reason": tree.reason,
                "path": tree.path(output),
                "candidates": [asdict(candidate) | self._token(candidate.token) for candidate in tree.candidates],
            },
            **looked_at,
        }

    def attribute(
        self,
        source: str,
        *,
        method: str,
        options: SearchOptions,
        prefix: str | Sequence[int] = (),
        off: Sequence[Head] = (),
        show: int = 0,
    ) -> dict[str, Any]:
        """How much each source token mattered for each token of one of the outputs; see `inspection.attribution`.

        Args:
            source: the text.
            method: one of `qkv.inspection.attribution.METHODS`.
            options: as for `examine`, and so are the rest.
            prefix: what the output begins with.
            off: heads that are switched off.
            show: which of the n best.

        Returns:
            The tokens, and `scores` (target, source) in nats.

        Raises:
            UserError: as `examine`, and if there is no such method.
        """
        if method not in METHODS:
            raise UserError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        ids, prefix_ids = self._source_ids(source), self._prefix_ids(prefix)
        with self._lock, heads_off(self.translator.model, off):
            found, _ = self._search(ids, options, prefix_ids)
            output = self._with_end(found[min(show, len(found) - 1)])
            scores = attribution_scores(self.translator, ids, output, method)
        return {
            "method": method,
            "source": self._tokens(ids, source=True),
            "target": self._tokens(output),
            "scores": scores.tolist(),
        }

    def shapes(
        self,
        source: str,
        *,
        options: SearchOptions,
        prefix: str | Sequence[int] = (),
        off: Sequence[Head] = (),
        show: int = 0,
    ) -> dict[str, Any]:
        """The shapes of the pass along one of the outputs, alike layers in one line; arguments as for `examine`.

        Raises:
            UserError: as `examine`.
        """
        ids, prefix_ids = self._source_ids(source), self._prefix_ids(prefix)
        with self._lock, heads_off(self.translator.model, off):
            found, _ = self._search(ids, options, prefix_ids)
            read = self._read(self._with_end(found[min(show, len(found) - 1)]))
            analysis = shapes_of_model(
                self.translator.model,
                ids,
                read,
                title=self.name,
                source_tokens=self.translator.tokenizers.source.pieces(ids),
                target_tokens=self.translator.tokenizers.target.pieces(read),
            )
        return analysis.folded().to_data()

    def _search(
        self, ids: list[int], options: SearchOptions, prefix: Sequence[int]
    ) -> tuple[list[Hypothesis], BeamRecord]:
        target, record = self.translator.tokenizers.target, BeamRecord(options)
        try:
            [found] = beam_search(
                self.translator.model,
                torch.tensor([ids], device=self.translator.device),
                bos=target.bos,
                eos=target.eos,
                pad=target.pad,
                options=options,
                prefix=prefix,
                record=record,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
        return found, record

    def _look(self, ids: list[int], hypothesis: Hypothesis) -> dict[str, Any]:
        """A forced pass along an output: maps, and the candidates at each position."""
        model, record = self.translator.model, AttentionRecord()
        output = self._with_end(hypothesis)
        read = self._read(output)
        device = self.translator.device
        memory = model.encode(torch.tensor([ids], device=device), None, record)
        hidden = model.decode(torch.tensor([read], device=device), memory, None, record)[0]
        values, tokens = next_tokens(model, hidden, CANDIDATES)
        own = model.project(hidden).log_softmax(dim=-1).gather(1, torch.tensor(output, device=device)[:, None])
        rows = zip(values.tolist(), tokens.tolist(), strict=True)
        return {
            "read": self._tokens(read),
            "target": self._tokens(output),
            "log_probabilities": own[:, 0].tolist(),
            "candidates": [
                [self._token(token) | {"log_probability": value} for value, token in zip(*row, strict=True)]
                for row in rows
            ],
            "maps": {
                kind: _packed(torch.stack([weights[0] for weights in layers]))
                for kind, layers in asdict(record).items()
                if layers
            },
        }

    def _source_ids(self, source: str) -> list[int]:
        if not source.strip():
            raise UserError("the source is blank: type something to translate")
        tokenizer = self.translator.tokenizers.source
        ids = [*tokenizer.encode([source])[0], tokenizer.eos]
        self._check_length("source", ids)
        return ids

    def _prefix_ids(self, prefix: str | Sequence[int]) -> list[int]:
        ids = self.translator.tokenizers.target.encode([prefix])[0] if isinstance(prefix, str) else list(prefix)
        self._check_length("prefix", ids)
        return ids

    def _check_length(self, name: str, ids: Sequence[int]) -> None:
        limit = min(LONGEST, self.translator.model.longest or LONGEST)
        if len(ids) > limit:
            raise UserError(f"the {name} has {len(ids)} tokens; at most {limit} can be shown")

    def _with_end(self, hypothesis: Hypothesis) -> list[int]:
        return hypothesis.tokens + [self.translator.tokenizers.target.eos] * hypothesis.finished

    def _read(self, output: Sequence[int]) -> list[int]:
        """What the decoder reads to predict an output."""
        return [self.translator.tokenizers.target.bos, *output[:-1]]

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


def _packed(weights: Tensor) -> dict[str, Any]:
    """Weights as shape and 16-bit numbers (1 is 65,535; little-endian): a third of what they take as text."""
    numbers = (weights.float() * 65535).round().cpu().numpy().astype("<u2")
    return {"shape": list(weights.shape), "data": base64.b64encode(numbers.tobytes()).decode("ascii")}
