"""Where a model looks: the attention weights of every layer and head, for one's own sentence.

The weights are those of a forced decode: the model is led along an output that a search has found, or that is given.
That is what the search itself has seen step by step, as each step depends on the tokens before it alone.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qkv.decoding.scoring import log_probabilities_of
from qkv.decoding.sentences import length_sorted_batches
from qkv.errors import UserError
from qkv.files import write_bytes, write_text
from qkv.nn.seq2seq import AttentionRecord
from qkv.run.directory import Run
from qkv.text.batches import pad
from qkv.translator import Translation, Translator, load

KINDS = ("encoder", "decoder", "cross")


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one head.

    Attributes:
        kind: encoder, decoder or cross.
        layer: counted from 1.
        head: counted from 1.
        weights: (row, column): how much of what row retrieves comes from column.
        rows: pieces that look.
        columns: pieces that are looked at.
    """

    kind: str
    layer: int
    head: int
    weights: np.ndarray
    rows: list[str]
    columns: list[str]

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.kind}, layer {self.layer}, head {self.head}"


@dataclass(frozen=True)
class Inspection:
    """One sentence on its way through a model. In a notebook it draws itself.

    Attributes:
        source: the text that was read.
        translation: the text that was written.
        source_tokens: pieces of the source, end of sentence included.
        target_tokens: pieces that were predicted, end of sentence included if the output ended.
        target_inputs: pieces that the decoder read: beginning of sentence, then target_tokens but the last. Row i of
            decoder and cross attention is the step that read target_inputs[i] and predicted target_tokens[i].
        log_probabilities: natural, of each target token.
        score: what the search ranks outputs by; of a given target, what it would have ranked it by.
        n_best: what the search has found, best first; of a given target, itself alone.
        attention: "encoder" (layer, head, source, source), "decoder" (layer, head, target, target) and "cross"
            (layer, head, target, source); a kind that the architecture lacks is absent.
    """

    source: str
    translation: str
    source_tokens: list[str]
    target_tokens: list[str]
    target_inputs: list[str]
    log_probabilities: list[float]
    score: float
    n_best: list[Translation]
    attention: dict[str, np.ndarray] = field(repr=False)

    def maps(self, kind: str | None = None, layer: int | None = None, head: int | None = None) -> list[AttentionMap]:
        """The maps of some heads, or of all.

        Args:
            kind: encoder, decoder or cross.
            layer: counted from 1.
            head: counted from 1.

        Raises:
            UserError: if there is no such kind, layer or head.
        """
        found = []
        for name in self._kinds(kind):
            weights = self.attention[name]
            rows, columns = self.axes(name)
            for one_layer in _chosen(f"{name} layer", layer, weights.shape[0]):
                for one_head in _chosen(f"{name} head", head, weights.shape[1]):
                    chosen = weights[one_layer - 1, one_head - 1]
                    found.append(AttentionMap(name, one_layer, one_head, chosen, rows, columns))
        return found

    def axes(self, kind: str) -> tuple[list[str], list[str]]:
        """The pieces that look and those that are looked at."""
        if kind == "encoder":
            return self.source_tokens, self.source_tokens
        if kind == "decoder":
            return self.target_inputs, self.target_inputs
        return self.target_tokens, self.source_tokens

    def to_json(self) -> str:
        """All of it as JSON; weights are nested lists of the axes that `attention` names."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["n_best"] = [asdict(translation) for translation in self.n_best]
        content["attention"] = {kind: weights.tolist() for kind, weights in self.attention.items()}
        return json.dumps(content, ensure_ascii=False)

    def to_npz(self, path: str | Path) -> None:
        """Write all of it as named NumPy arrays: the kinds of attention, and the pieces on their axes.

        Raises:
            UserError: if the file cannot be written.
        """
        named: dict[str, Any] = {
            "source_tokens": np.array(self.source_tokens),
            "target_tokens": np.array(self.target_tokens),
            "target_inputs": np.array(self.target_inputs),
            "log_probabilities": np.array(self.log_probabilities),
            **self.attention,
        }
        content = io.BytesIO()
        np.savez_compressed(content, **named)
        write_bytes(Path(path), content.getvalue())

    def to_html(self, **chosen: Any) -> str:
        """A page that needs nothing beside itself; arguments as for `maps`."""
        from qkv.pages.map_page import page

        return page(self, self.maps(**chosen))

    def _repr_html_(self) -> str:
        from qkv.pages.map_page import fragment

        return fragment(self, self.maps())

    def _kinds(self, kind: str | None) -> list[str]:
        if kind is None:
            return list(self.attention)
        if kind not in KINDS:
            raise UserError(f"unknown kind of attention {kind!r}; choose from {', '.join(KINDS)}")
        if kind not in self.attention:
            has = ", ".join(self.attention) or "no attention at all"
            raise UserError(f"this model has no {kind} attention: it has {has}")
        return [kind]


def inspect(
    model_or_run: Translator | Run | str | Path, source: str, target: str | None = None, *, beam: int | None = None
) -> Inspection:
    """Translate a source, or follow a given target, and record where the model looks.

    Args:
        model_or_run: a translator, a run or its directory.
        source: the text to be read.
        target: what is to be written; by default what the search finds.
        beam: in place of the run's; 1 is greedy search.

    Raises:
        UserError: if there is no such run, nothing to translate, or a text is too long for the model.
    """
    translator = as_translator(model_or_run)
    source_ids, target_ids, n_best = led_along(translator, source, target, beam=beam)
    (recorded,) = record_pairs(translator, [(source_ids, target_ids)])
    if target is not None:
        log_probability = math.fsum(recorded.log_probabilities)
        score = translator.search_options(beam, None, n_best=1).score(log_probability, len(target_ids))
        n_best = [Translation(target, score, log_probability, translator.tokenizers.target.pieces(target_ids[:-1]))]
    pieces = translator.tokenizers.target.pieces
    return Inspection(
        source=source,
        translation=n_best[0].text,
        source_tokens=translator.tokenizers.source.pieces(source_ids),
        target_tokens=pieces(target_ids),
        target_inputs=pieces([translator.tokenizers.target.bos, *target_ids[:-1]]),
        log_probabilities=recorded.log_probabilities,
        score=n_best[0].score,
        n_best=n_best,
        attention=recorded.attention,
    )


def as_translator(model_or_run: Translator | Run | str | Path) -> Translator:
    """A translator as it is; one for a run or its directory."""
    if isinstance(model_or_run, Translator):
        return model_or_run
    return load(model_or_run.path if isinstance(model_or_run, Run) else model_or_run)


def led_along(
    translator: Translator, source: str, target: str | None, *, beam: int | None = None
) -> tuple[list[int], list[int], list[Translation]]:
    """Ids of the source, and of a given target or else of the best that is found; and all that is found.

    Raises:
        UserError: if there is nothing to translate, or a text is too long for the model.
    """
    (source_ids,) = translator.encode([source], "source")
    if target is not None:
        (target_ids,) = translator.encode([target], "target")
        return source_ids, target_ids, []
    if not source.strip():
        raise UserError("there is nothing to translate: the source is empty")
    width = translator.options.beam if beam is None else beam
    options = translator.search_options(width, None, n_best=max(1, width))
    (found,) = translator.search([source_ids], options)
    end = [translator.tokenizers.target.eos] if found[0].finished else []
    return source_ids, [*found[0].tokens, *end], [translator.translation(hypothesis) for hypothesis in found]


@dataclass(frozen=True)
class Recorded:
    """What a forced decode of one pair has seen; see `Inspection`."""

    attention: dict[str, np.ndarray]
    log_probabilities: list[float]


@torch.inference_mode()
def record_pairs(
    translator: Translator, pairs: Sequence[tuple[list[int], list[int]]], *, kinds: Sequence[str] = KINDS
) -> list[Recorded]:
    """Lead a model along pairs, in batches, and record the weights, without those of padding.

    Args:
        translator: holds the model.
        pairs: ids of source and target, as the model is to read and to predict them.
        kinds: of attention that are wanted.
    """
    results: dict[int, Recorded] = {}
    lengths = [max(len(source), len(target)) for source, target in pairs]
    for indices in length_sorted_batches(lengths, translator.batch_tokens):
        batch = _record_batch(translator, [pairs[index] for index in indices], kinds)
        results.update(zip(indices, batch, strict=True))
    return [results[index] for index in range(len(pairs))]


def _record_batch(
    translator: Translator, pairs: Sequence[tuple[list[int], list[int]]], kinds: Sequence[str]
) -> list[Recorded]:
    model, tokenizers, device = translator.model, translator.tokenizers, translator.device
    source, mask = pad([source for source, _ in pairs], tokenizers.source.pad)
    target_input, _ = pad([[tokenizers.target.bos, *target[:-1]] for _, target in pairs], tokenizers.target.pad)
    target_output, _ = pad([target for _, target in pairs], tokenizers.target.pad)
    record = AttentionRecord()
    source_record = record if "encoder" in kinds else None
    memory = model.encode(source.to(device), None if mask is None else mask.to(device), source_record)
    hidden = model.decode(target_input.to(device), memory, record=record)
    recorded = []
    for row, output in enumerate(target_output.to(device)):
        source_length, target_length = (len(ids) for ids in pairs[row])
        # One sentence at a time, as logits of a whole batch may not fit into memory.
        logits = model.project(hidden[row, :target_length])
        weights = _weights(record, kinds, row, source_length=source_length, target_length=target_length)
        recorded.append(Recorded(weights, log_probabilities_of(logits, output[:target_length]).tolist()))
    return recorded


def _weights(
    record: AttentionRecord, kinds: Sequence[str], row: int, *, source_length: int, target_length: int
) -> dict[str, np.ndarray]:
    """(layer, head, row, column) of each kind that there is, for one sentence of a batch."""
    sizes = {"encoder": (source_length, source_length), "decoder": (target_length,) * 2}
    sizes["cross"] = (target_length, source_length)
    found = {}
    for kind in kinds:
        if layers := getattr(record, kind):
            height, width = sizes[kind]
            weights = torch.stack([layer[row, :, :height, :width] for layer in layers])
            found[kind] = weights.to(torch.promote_types(weights.dtype, torch.float32)).cpu().numpy()
    return found


def _chosen(what: str, number: int | None, count: int) -> range:
    if number is None:
        return range(1, count + 1)
    if not 1 <= number <= count:
        raise UserError(f"there is no {what} {number}: they are counted from 1 to {count}")
    return range(number, number + 1)


def save(inspection: Inspection, path: str | Path, **chosen: Any) -> None:
    """Write an inspection as what the path's suffix says: .html, .json, .npz, or a picture: .png, .svg, .pdf.

    Args:
        inspection: what to write.
        path: where to.
        chosen: which maps a picture or page shows; see `Inspection.maps`. Numbers are always written in full.

    Raises:
        UserError: if the suffix is another, there are no such maps, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix == ".html":
        write_text(path, inspection.to_html(**chosen))
    elif path.suffix == ".json":
        write_text(path, inspection.to_json())
    elif path.suffix == ".npz":
        inspection.to_npz(path)
    elif path.suffix in (".png", ".svg", ".pdf"):
        from qkv.pages import plots

        title = f"{inspection.source}\n{inspection.translation}"
        plots.save(plots.map_page(inspection.maps(**chosen), title=title), path)
    else:
        raise UserError(f"{path}: write a .html, .json, .npz, .png, .svg or .pdf file")
