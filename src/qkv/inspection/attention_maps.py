"""Where a model looks: the attention weights of every layer and head, for one's own sentence.

The weights are those of a forced decode: the model is led along an output that a search has found, or that is given.
That is what the search itself has seen step by step, as each step depends on the tokens before it alone.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qkv.errors import UserError
from qkv.files import to_json, write_bytes, write_text
from qkv.inspection.forced import KINDS, ModelOrRun, as_translator, led_along, record_pairs
from qkv.pages.escaping import in_html
from qkv.pages.frame import page
from qkv.pages.heat_maps import HeatMap, fragment, grid
from qkv.translator import Translation

_MEANING = {
    "encoder": "Each row is a source token, and what it gathers from the source.",
    "decoder": "Each row is a token that the decoder read, and what it gathers from those it read so far.",
    "cross": "Each row is a token that is predicted, and what is gathered from the source to predict it.",
}


@dataclass(frozen=True, kw_only=True)
class AttentionMap(HeatMap):
    """The weights of one head: how much of what a row's piece retrieves comes from a column's.

    Attributes:
        kind: encoder, decoder or cross.
        layer: counted from 1.
        head: counted from 1.
    """

    kind: str
    layer: int
    head: int


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
        log_probabilities: natural, of each target token, by the model itself.
        score: what the search ranks outputs by; of a given target, what it would have ranked it by.
        n_best: what the translator's engine has found, best first; of a given target, itself alone.
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
        """The maps of some heads, or of all; layers and heads are counted from 1.

        Raises:
            UserError: if there is no such kind, layer or head.
        """
        found = []
        for name in self._kinds(kind):
            weights = self.attention[name]
            rows, columns = self.axes(name)
            for one_layer in _chosen(f"{name} layer", layer, weights.shape[0]):
                for one_head in _chosen(f"{name} head", head, weights.shape[1]):
                    place = f"{name}, layer {one_layer}, head {one_head}"
                    chosen = weights[one_layer - 1, one_head - 1]
                    found.append(AttentionMap(place, chosen, rows, columns, kind=name, layer=one_layer, head=one_head))
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
        return to_json(content)

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
        return page(f"Attention: {self.source}", fragment(self._paragraphs(self.maps(**chosen))))

    def _repr_html_(self) -> str:
        return fragment(self._paragraphs(self.maps()))

    def _paragraphs(self, maps: Sequence[AttentionMap]) -> Iterator[str]:
        yield (
            f"<p><strong>Source:</strong> {in_html(self.source)}<br>"
            f"<strong>Translation:</strong> {in_html(self.translation)} (score {self.score:.4f})</p>"
        )
        kinds = list(dict.fromkeys(one.kind for one in maps))
        for kind in kinds:
            opened = " open" if kind == kinds[-1] else ""
            yield (
                f"<details{opened}><summary>{kind} attention</summary><p>{_MEANING[kind]} The fuller the colour, the "
                f"larger the weight.</p>\n{grid(one for one in maps if one.kind == kind)}</details>"
            )
        if not kinds:
            yield "<p>This model has no attention.</p>"

    def _kinds(self, kind: str | None) -> list[str]:
        if kind is None:
            return list(self.attention)
        if kind not in KINDS:
            raise UserError(f"unknown kind of attention {kind!r}; choose from {', '.join(KINDS)}")
        if kind not in self.attention:
            has = ", ".join(self.attention) or "no attention at all"
            raise UserError(f"this model has no {kind} attention: it has {has}")
        return [kind]


def attention_maps(
    model_or_run: ModelOrRun, source: str, target: str | None = None, *, beam: int | None = None
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

        rows: dict[tuple[str, int], list[AttentionMap]] = {}
        for one in inspection.maps(**chosen):
            rows.setdefault((one.kind, one.layer), []).append(one)
        if not rows:
            raise UserError("nothing to draw: this model has no attention")
        figure = plots.map_page(list(rows.values()), title=f"{inspection.source}\n{inspection.translation}")
        plots.save(figure, path)
    else:
        raise UserError(f"{path}: write a .html, .json, .npz, .png, .svg or .pdf file")
