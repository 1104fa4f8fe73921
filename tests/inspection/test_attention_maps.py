"""Attention maps: equal to torch's own and to what a search sees step by step, for everything that attends."""

import json

import numpy as np
import pytest
import torch

import qkv
from qkv.decoding.search import search
from qkv.errors import UserError
from qkv.inspection.attention_maps import attention_maps, save
from qkv.inspection.forced import led_along, record_pairs
from qkv.interchange.torch_modules import to_torch
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import AttentionRecord
from qkv.nn.transformer import Transformer
from qkv.pages import plots

ATTENDING = [name for name in ARCHITECTURES if name not in ("rnn", "gru", "lstm")]
SOURCE = "abba cad"
PAIRS = [("abba cad", "AB"), ("b", "DCBA ABBA"), ("dab cd", "CAB")]


# Equal to torch's


def weights_of(attention, query, memory, **masks):
    found, weights = attention(query, memory, memory, need_weights=True, average_attn_weights=False, **masks)
    return found, weights


def torch_weights(model: Transformer, source, target, source_mask):
    """All weights, by torch.nn.MultiheadAttention on the same numbers, layer by layer (post-norm)."""
    padding = ~source_mask
    encoder, decoder = to_torch(model.encoder).eval(), to_torch(model.decoder).eval()
    kinds = {"encoder": [], "decoder": [], "cross": []}
    x = model.source_embedding(source)
    for layer in encoder.layers:
        kinds["encoder"].append(weights_of(layer.self_attn, x, x, key_padding_mask=padding)[1])
        x = layer(x, src_key_padding_mask=padding)
    memory, x = x, model.target_embedding(target)
    length = target.shape[1]
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    for layer in decoder.layers:
        found, weights = weights_of(layer.self_attn, x, x, attn_mask=ahead)
        kinds["decoder"].append(weights)
        query = layer.norm1(x + found)
        kinds["cross"].append(weights_of(layer.multihead_attn, query, memory, key_padding_mask=padding)[1])
        x = layer(x, memory, tgt_mask=ahead, memory_key_padding_mask=padding)
    return {kind: torch.stack(layers, dim=1) for kind, layers in kinds.items()}  # (batch, layer, head, row, column)


def encoded(translator, pairs):
    sources = translator.encode([source for source, _ in pairs], "source")
    targets = translator.encode([target for _, target in pairs], "target")
    return list(zip(sources, targets, strict=True))


def padded(rows, value):
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


@torch.no_grad()
def test_maps_equal_those_of_torch_on_shared_weights(make_translator):
    translator = make_translator()
    tokenizers = translator.tokenizers
    ids = encoded(translator, PAIRS)
    source = padded([source for source, _ in ids], tokenizers.source.pad)
    target = padded([[tokenizers.target.bos, *target[:-1]] for _, target in ids], tokenizers.target.pad)
    expected = torch_weights(translator.model, source, target, source != tokenizers.source.pad)
    for row, (recorded, (source_ids, target_ids)) in enumerate(zip(record_pairs(translator, ids), ids, strict=True)):
        sizes = {"encoder": (len(source_ids),) * 2, "decoder": (len(target_ids),) * 2}
        sizes["cross"] = (len(target_ids), len(source_ids))
        for kind, (height, width) in sizes.items():
            theirs = expected[kind][row][:, :, :height, :width]
            assert recorded.attention[kind].shape == theirs.shape == (2, 4, height, width)
            np.testing.assert_allclose(recorded.attention[kind], theirs.numpy(), atol=1e-6)
            assert theirs.std() > 0.05


@pytest.mark.parametrize("architecture", ATTENDING)
@torch.no_grad()
def test_padding_has_no_weight_and_the_future_neither(architecture, make_translator):
    translator = make_translator(architecture)
    ids = encoded(translator, PAIRS)
    pad = translator.tokenizers.source.pad
    source = padded([source for source, _ in ids], pad)
    record = AttentionRecord()
    memory = translator.model.encode(source, source != pad, record)
    target = padded([target for _, target in ids], translator.tokenizers.target.pad)
    translator.model.decode(target, memory, record=record)
    hidden = source == pad
    assert hidden.any()
    assert record.cross
    for weights in (*record.encoder, *record.cross):
        assert (weights.transpose(1, 3)[hidden] == 0).all()
    for weights in record.decoder:
        assert (weights.triu(1) == 0).all()


# For every architecture that attends


@pytest.mark.parametrize("architecture", ATTENDING)
def test_rows_sum_to_one_and_no_weight_is_negative(architecture, make_translator):
    inspection = attention_maps(make_translator(architecture), SOURCE)
    source, target = len(inspection.source_tokens), len(inspection.target_tokens)
    sizes = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
    kinds = ["encoder", "decoder", "cross"] if architecture == "transformer" else ["cross"]
    assert list(inspection.attention) == kinds
    for kind, weights in inspection.attention.items():
        assert weights.shape[2:] == sizes[kind]
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("architecture", ["gru", "rnn"])
def test_a_model_without_attention_has_no_maps(architecture, make_translator):
    inspection = attention_maps(make_translator(architecture), SOURCE)
    assert inspection.attention == {}
    assert inspection.maps() == []
    assert "no attention" in inspection._repr_html_()
    with pytest.raises(UserError, match="no cross attention: it has no attention at all"):
        inspection.maps("cross")


def seen_by_search(translator, source_ids, monkeypatch):
    """What a search attends to at each step: for each beginning it follows, the weights of its newest token."""
    model, seen, histories = translator.model, {}, []
    decode = model.decode

    def recording(target, memory, state=None, record=None):
        record = AttentionRecord()
        hidden = decode(target, memory, state, record)
        if not histories:
            reorder = state.reorder

            def moved(rows):
                histories[:] = [histories[row] for row in rows.tolist()]
                reorder(rows)

            monkeypatch.setattr(state, "reorder", moved)
            histories.extend(() for _ in target)
        for row, token in enumerate(target[:, -1].tolist()):
            histories[row] = (*histories[row], token)
            kinds = {"decoder": record.decoder, "cross": record.cross}
            seen[histories[row]] = {
                kind: torch.stack([layer[row, :, -1] for layer in layers]) for kind, layers in kinds.items() if layers
            }
        return hidden

    monkeypatch.setattr(model, "decode", recording)
    target = translator.tokenizers.target
    source = torch.tensor([source_ids])
    (found,) = search(model, source, bos=target.bos, eos=target.eos, pad=target.pad, options=translator.options)
    monkeypatch.setattr(model, "decode", decode)
    return found[0], seen


@pytest.mark.parametrize("architecture", ATTENDING)
@pytest.mark.parametrize("beam", [1, 4])
def test_a_search_has_seen_step_by_step_what_its_output_is_shown_with(architecture, beam, make_translator, monkeypatch):
    translator, steps = make_translator(architecture, beam=beam), 0
    for text in (SOURCE, "dcba ab abba", "bad"):
        source_ids, target_ids, _ = led_along(translator, text, None)
        hypothesis, seen = seen_by_search(translator, source_ids, monkeypatch)
        assert [*hypothesis.tokens, *[translator.tokenizers.target.eos] * hypothesis.finished] == target_ids
        inspection = attention_maps(translator, text)
        beginning = (translator.tokenizers.target.bos,)
        for step, token in enumerate(target_ids):
            for kind, weights in seen[beginning].items():
                shown = inspection.attention[kind][:, :, step, : weights.shape[-1]]  # self-attention: of those so far
                np.testing.assert_allclose(shown, weights.numpy(), atol=1e-10)
            beginning = (*beginning, token)
        steps += len(target_ids)
    assert steps >= 6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("beam", [1, 3])
def test_outputs_are_the_same_with_and_without(architecture, beam, make_translator):
    translator = make_translator(architecture)
    for source in ("ab", SOURCE, "dcba ab abba"):
        inspection = attention_maps(translator, source, beam=beam)
        assert inspection.translation == translator.translate(source, beam=beam)
        assert inspection.translation == inspection.n_best[0].text
        assert 1 <= len(inspection.n_best) <= beam
        assert inspection.score == inspection.n_best[0].score
        assert sum(inspection.log_probabilities) == pytest.approx(inspection.n_best[0].log_probability, abs=1e-9)


def test_a_model_that_nobody_looks_into_computes_no_weights(make_translator, monkeypatch):
    """They are a softmax of their own; a translation leaves all to torch's fused attention."""
    translator, calls = make_translator(), []
    softmax = torch.Tensor.softmax

    def counted(scores, *arguments, **options):
        calls.append(scores.shape)
        return softmax(scores, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "softmax", counted)
    translator.translate(SOURCE)
    assert calls == []
    attention_maps(translator, SOURCE)
    assert len(calls) == 3 * 2  # kinds and layers


def test_tokens_stand_where_the_contract_says(make_translator):
    translator = make_translator()
    inspection = attention_maps(translator, "ab", "CAD")
    assert inspection.source_tokens == ["a", "b", "</s>"]
    assert inspection.target_tokens == ["C", "A", "D", "</s>"]
    assert inspection.target_inputs == ["<s>", "C", "A", "D"]
    (score,) = translator.score([("ab", "CAD")])
    assert inspection.log_probabilities == pytest.approx(score.token_log_probabilities)
    assert inspection.score == pytest.approx(score.log_probability / 4)
    assert (inspection.translation, [one.text for one in inspection.n_best]) == ("CAD", ["CAD"])
    (cross,) = inspection.maps("cross", 2, 3)
    assert (cross.rows, cross.columns, cross.title) == (
        inspection.target_tokens,
        inspection.source_tokens,
        "cross, layer 2, head 3",
    )
    assert (cross.weights == inspection.attention["cross"][1, 2]).all()
    assert [(one.layer, one.head) for one in inspection.maps("encoder", head=4)] == [(1, 4), (2, 4)]
    assert len(inspection.maps()) == 3 * 2 * 4
    assert inspection.maps("decoder", 1, 1)[0].rows == inspection.target_inputs


def test_a_batch_is_seen_as_each_alone(make_translator):
    translator = make_translator()
    ids = encoded(translator, PAIRS)
    for together, pair in zip(record_pairs(translator, ids), ids, strict=True):
        (alone,) = record_pairs(translator, [pair])
        assert together.log_probabilities == pytest.approx(alone.log_probabilities)
        for kind, weights in alone.attention.items():
            np.testing.assert_allclose(together.attention[kind], weights, atol=1e-12)


# Files and pages


def test_numbers_come_back_from_files(make_translator, tmp_path):
    inspection = qkv.attention_maps(make_translator(), SOURCE)
    save(inspection, tmp_path / "maps.npz")
    save(inspection, tmp_path / "maps.json")
    read = json.loads((tmp_path / "maps.json").read_text("utf-8"))
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as arrays:
        for kind, weights in inspection.attention.items():
            assert (arrays[kind] == weights).all()
            assert (np.array(read["attention"][kind]) == weights).all()
        assert arrays["target_inputs"].tolist() == inspection.target_inputs == read["target_inputs"]
        assert arrays["source_tokens"].tolist() == inspection.source_tokens == read["source_tokens"]
    assert [one["text"] for one in read["n_best"]] == [one.text for one in inspection.n_best]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.json", "maps.npz"]


def test_a_page_shows_the_chosen_maps_and_takes_no_text_for_markup(make_translator, tmp_path):
    inspection = attention_maps(make_translator(), "a<img src=x onerror=alert(1)>&b")
    save(inspection, tmp_path / "maps.html", kind="cross", layer=2)
    page = (tmp_path / "maps.html").read_text("utf-8")
    assert page.count("<figure>") == 4
    assert page.count('aria-label="cross, layer 2, head ') == 4
    assert "<img" not in page
    assert "&lt;img" in page
    assert "://" not in page
    assert "default-src 'none'" in page
    assert inspection._repr_html_().count("<figure>") == 24


def test_a_picture_has_a_panel_for_every_chosen_map(make_translator, tmp_path):
    inspection = attention_maps(make_translator(), SOURCE)
    figure = plots.map_page([inspection.maps(kind, layer=2) for kind in inspection.attention])
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == [f"{kind}, layer 2, head {head}" for kind in inspection.attention for head in range(1, 5)]
    for one in inspection.maps(layer=2):
        axes = panels[one.title]
        assert (axes.images[0].get_array() == one.weights).all()
        assert [tick.get_text() for tick in axes.get_yticklabels()] == one.rows
        assert [tick.get_text() for tick in axes.get_xticklabels()] == one.columns
    for suffix, begins in ((".png", b"\x89PNG\r\n"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        path = tmp_path / f"maps{suffix}"
        save(inspection, path, kind="cross", layer=1, head=1)
        assert path.read_bytes().startswith(begins)
    with pytest.raises(UserError, match="there are no maps"):
        plots.map_page([])
    with pytest.raises(UserError, match="this model has no attention"):
        save(attention_maps(make_translator("gru"), SOURCE), tmp_path / "none.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crss",), "unknown kind of attention 'crss'; choose from encoder, decoder, cross"),
        (("cross", 3), "there is no cross layer 3: they are counted from 1 to 2"),
        (("cross", 1, 0), "there is no cross head 0: they are counted from 1 to 4"),
    ],
)
def test_maps_that_are_not_there(arguments, message, make_translator):
    with pytest.raises(UserError, match=f"^{message}$"):
        attention_maps(make_translator(), "ab").maps(*arguments)


def test_what_cannot_be_inspected_or_written(make_translator, tmp_path):
    translator = make_translator(position="learned", max_length=8)
    with pytest.raises(UserError, match="nothing to translate"):
        attention_maps(translator, "  ")
    with pytest.raises(UserError, match="source 1 has 13 tokens, but the model has learned 8 positions"):
        attention_maps(translator, "abababababab")
    with pytest.raises(UserError, match="beam: must be greater than or equal to 1, got 0"):
        attention_maps(translator, "ab", beam=0)
    with pytest.raises(UserError, match="no such run directory"):
        attention_maps(tmp_path / "nowhere", "ab")
    with pytest.raises(UserError, match=r"write a \.html, \.json, \.npz, \.png, \.svg or \.pdf file"):
        save(attention_maps(translator, "ab"), tmp_path / "maps.gif")
