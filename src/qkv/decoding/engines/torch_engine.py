"""The engine that is torch: the model itself, or a copy in another precision, laid out for decoding."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from qkv.decoding.beam import beam_search
from qkv.decoding.beam_tree import BeamRecord, BeamTree
from qkv.decoding.cpu.packing import Packing
from qkv.decoding.cpu.quantization import quantize
from qkv.decoding.cpu.side_by_side import side_by_side
from qkv.decoding.engines import PRECISIONS
from qkv.decoding.engines.contract import EngineKind, Request
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.decoding.scoring import score_targets
from qkv.decoding.search import search
from qkv.decoding.sentences import in_order, length_sorted_batches, tokens_at_once
from qkv.decoding.shortlist import Shortlist, Shortlisted
from qkv.decoding.steps import Progress, check_prefix
from qkv.devices import DTYPES, Precision, autocast
from qkv.errors import UserError
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.batches import forced_batch, pad
from qkv.text.tokenizer import Tokenizers


class TorchEngine:
    """See `qkv.decoding.engines.contract.Engine`.

    Args:
        model: in evaluation mode, where it is to compute. Whoever changes it later sees that in what is found, unless
            the precision made a copy of it.
        tokenizers: give the special ids.
        precision: see `lower_precision`.
        shortlist: limits the target tokens that a search looks at, if given.
        autocast: what matrix products are computed in by a model that is being trained.
    """

    name = "torch"
    lacks: frozenset[str] = frozenset()

    def __init__(
        self,
        model: Seq2Seq,
        tokenizers: Tokenizers,
        *,
        precision: str = "float32",
        shortlist: Shortlist | None = None,
        autocast: Precision = "float32",
    ):
        self.precision, self.shortlist, self.note = precision, shortlist, ""
        self.exact = precision == autocast == "float32" and shortlist is None
        self.device, self.longest = next(model.parameters()).device, model.longest
        self._tokenizers, self._autocast = tokenizers, autocast
        self._model = lower_precision(model, precision, self.device)
        self._packing = Packing(self._model)

    @property
    def model(self) -> Seq2Seq:
        """What searches: the model, laid out for decoding."""
        return self._packing.packed() if self._autocast == "float32" else self._model

    def search(
        self, request: Request, *, batch_tokens: int = 8192, on_progress: Callable[[int], object] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.search`."""
        sources, model = request.sources, self.model
        prefixes = [tuple(prefix) for prefix in request.prefixes or [()] * len(sources)]
        alike: dict[tuple[int, ...], list[int]] = {}  # indices of those that begin with a prefix
        for index, prefix in enumerate(prefixes):
            alike.setdefault(prefix, []).append(index)
        for prefix in alike:
            check_prefix(prefix, **self._special(), model=self._model)

        def search_batch(indices: Sequence[int]) -> list[list[Hypothesis]]:
            chosen, prefix = [sources[index] for index in indices], prefixes[indices[0]]
            with autocast(self.device, self._autocast):  # here, as each thread has a context of its own
                return self._search_batch(model, chosen, request.options, prefix)

        lengths = [len(source) for source in sources]
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        most = tokens_at_once(lengths, batch_tokens // request.options.beam, threads)
        batches = [
            [group[place] for place in places]
            for group in alike.values()
            for places in length_sorted_batches([lengths[index] for index in group], most)
        ]
        return in_order(batches, side_by_side(search_batch, batches, threads), on_progress)

    def search_recorded(
        self, source: Sequence[int], options: SearchOptions, prefix: Sequence[int] = ()
    ) -> tuple[list[Hypothesis], BeamTree]:
        """Search for one source, among all tokens, by beam search whatever the beam; also what the search considered.

        Raises:
            UserError: if no output can begin with the prefix.
        """
        record, ids = BeamRecord(options), torch.tensor([source], device=self.device)
        with autocast(self.device, self._autocast):
            progress = Progress(self.model, ids, None, **self._special(), options=options, prefix=prefix)
            [found] = beam_search(progress, record)
        return found, record.trees[0]

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""
        if not sources:
            return []
        batch = forced_batch(sources, targets, self._tokenizers).to(self.device)
        with autocast(self.device, self._autocast):
            scores = score_targets(self.model, batch)
        return [row[: len(target)] for row, target in zip(scores.tolist(), targets, strict=True)]

    def _search_batch(
        self, model: Seq2Seq, sources: Sequence[Sequence[int]], options: SearchOptions, prefix: Sequence[int]
    ) -> list[list[Hypothesis]]:
        padded, mask = pad(sources, self._tokenizers.source.pad)
        source, source_mask = padded.to(self.device), None if mask is None else mask.to(self.device)
        if self.shortlist is None:
            return search(model, source, source_mask, **self._special(), options=options, prefix=prefix)
        tokens = torch.cat((self.shortlist.of(source), source.new_tensor(prefix))).unique()
        narrow, allowed = Shortlisted(model, tokens), self.shortlist.allowed(source, source_mask, tokens, prefix)
        special: dict[str, Any] = {name: narrow.place(token) for name, token in self._special().items()}
        places = [narrow.place(token) for token in prefix]
        return narrow.restore(
            search(narrow, source, source_mask, **special, options=options, prefix=places, allowed=allowed)
        )

    def _special(self) -> dict[str, Any]:
        target = self._tokenizers.target
        return {"bos": target.bos, "eos": target.eos, "pad": target.pad}


def lower_precision(model: Seq2Seq, precision: str, device: torch.device) -> Seq2Seq:
    """A model for decoding in int8 (on a CPU), bf16 or fp16 (on CUDA): a copy, unless it is to stay float32.

    Raises:
        UserError: if there is no such precision, or not on this device.
    """
    if precision == "float32":
        return model
    if precision == "int8":
        if device.type != "cpu":
            raise UserError("precision int8 is for a CPU: take bf16 or fp16 on cuda")
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            raise UserError("precision int8 needs a CPU with AVX2: take float32")
        return quantize(model)
    if precision not in DTYPES:
        raise UserError(f"unknown precision {precision!r}: use {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 is for cuda: take float32 or int8 on a CPU")
    return copy.deepcopy(model).to(DTYPES[precision])


TORCH = EngineKind(
    PRECISIONS,
    lambda opening: TorchEngine(
        opening.model, opening.tokenizers, precision=opening.precision, shortlist=opening.shortlist
    ),
)
