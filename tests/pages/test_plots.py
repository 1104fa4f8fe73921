"""Pictures: they show the numbers that they are given, in files that open, in colours that survive a photocopier."""

import struct
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from qkv.errors import UserError
from qkv.nn import causal_mask, sinusoidal_position
from qkv.pages import plots
from qkv.training.schedule import Schedule

WEIGHTS = np.array([[0.75, 0.25, 0.0], [0.1, 0.2, 0.7]])
ROWS, COLUMNS = ["ein", "$Mann$"], ["a", "<b>man</b>", "_"]
METRICS = [
    {"event": "train", "step": 5, "nll": 3.0},
    {"event": "validation", "step": 5, "loss": 2.5, "perplexity": 12.2, "bleu": 4.0, "seconds": 1.0, "samples": []},
    {"event": "train", "step": 10, "nll": 2.0},
    {"event": "validation", "step": 10, "loss": 2.4, "perplexity": 11.0, "bleu": 6.0, "seconds": 2.0, "samples": []},
]
SCHEDULES = {
    "paper": Schedule("paper", peak=1.0, warmup_steps=100, d_model=64),
    "_cosine": Schedule("cosine", peak=1e-3, warmup_steps=10),
}


def texts(axes):
    return [tick.get_text() for tick in axes.get_xticklabels()], [tick.get_text() for tick in axes.get_yticklabels()]


def test_a_heat_map_shows_the_weights_and_the_tokens_as_they_are():
    figure = plots.heat_map(WEIGHTS, ROWS, COLUMNS, title="layer 1, head $2$")
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), WEIGHTS)
    assert axes.images[0].get_clim() == (0.0, 1.0), "so that maps can be compared"
    assert texts(axes) == (COLUMNS, ROWS)
    assert [text.get_text() for text in axes.texts] == ["0.75", "0.25", "0.00", "0.10", "0.20", "0.70"]
    assert axes.get_title() == "layer 1, head $2$"


def test_long_maps_have_no_numbers_and_fewer_names():
    length = 100
    axes = plots.heat_map(np.eye(length), [str(i) for i in range(length)], ["x"] * length).axes[0]
    assert not axes.texts
    assert texts(axes)[1] == [str(i) for i in range(0, length, 2)]


def test_a_page_has_a_map_for_every_layer_and_head():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 4, 2))
    figure = plots.head_grid(weights, ROWS, COLUMNS, title="all")
    shown = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes}
    assert len(shown) == 8
    for layer, head in np.ndindex(2, 4):
        assert np.array_equal(shown[f"layer {layer + 1}, head {head + 1}"], weights[layer, head])


@pytest.mark.parametrize("weights", [WEIGHTS.T, WEIGHTS[None]])
def test_a_map_of_another_size_than_its_tokens_is_refused(weights):
    with pytest.raises(ValueError, match="2 rows and 3 columns"):
        plots.heat_map(weights, ROWS, COLUMNS)
    with pytest.raises(ValueError, match="axes"):
        plots.head_grid(np.empty((0, 4, 2, 3)), ROWS, COLUMNS)


def test_a_mask_is_dark_where_one_may_look_and_crossed_out_elsewhere():
    axes = plots.mask_picture(causal_mask(4)).axes[0]
    assert np.array_equal(axes.images[0].get_array() > 0, np.tril(np.ones((4, 4), bool)))
    crosses = {(int(x), int(y)) for x, y in axes.collections[0].get_offsets()}
    assert crosses == {(key, query) for query in range(4) for key in range(query + 1, 4)}


def test_a_padding_mask_is_one_row():
    assert plots.mask_picture([True, True, False]).axes[0].images[0].get_array().shape == (1, 3)


def test_positions_are_coloured_by_sign():
    image = plots.position_picture(sinusoidal_position(20, 16)).axes[0].images[0]
    assert image.get_array().shape == (20, 16)
    low, high = image.get_clim()
    assert low == -high


def lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_learning_curves_show_what_was_reported():
    loss, metric = plots.learning_curves(METRICS).axes
    assert lines(loss) == {"training": ([5, 10], [3.0, 2.0]), "validation": ([5, 10], [2.5, 2.4])}
    assert lines(metric) == {"validation bleu": ([5, 10], [4.0, 6.0])}
    assert len(plots.learning_curves(METRICS[:1]).axes) == 1
    gaps = [
        {"event": "train", "step": step, "nll": value}
        for step, value in ((1, 3.0), (2, None), (3, float("nan")), (4, 0.0))
    ]
    assert lines(plots.learning_curves(gaps).axes[0]) == {"training": ([1, 4], [3.0, 0.0])}, (
        "what is no number is left out"
    )
    with pytest.raises(UserError, match="no reports yet"):
        plots.learning_curves([])


def test_schedules_are_drawn_as_they_will_run():
    rates_of = {
        name: lambda step, of=schedule: of.learning_rate(step, step / 1000) for name, schedule in SCHEDULES.items()
    }
    drawn = lines(plots.schedule_picture(rates_of, steps=1000).axes[0])
    steps, rates = drawn["paper"]
    assert steps[int(np.argmax(rates))] == pytest.approx(100, abs=3)
    assert (steps[0], steps[-1]) == (1, 1000)
    assert rates[-1] == SCHEDULES["paper"].learning_rate(1000, 1.0)
    assert drawn["cosine"][1][-1] == pytest.approx(0.0, abs=1e-12)


def test_quality_by_length_has_a_bar_per_range():
    axes = plots.quality_picture([(1, 10, 900, 40.0), (11, 20, 1_100, 35.5)], metric="BLEU", unit="words").axes[0]
    assert [bar.get_height() for bar in axes.patches] == [40.0, 35.5]
    assert texts(axes)[0] == ["1–10", "11–20"]
    assert [text.get_text() for text in axes.texts] == ["40.0\n(900)", "35.5\n(1,100)"]


@pytest.mark.parametrize("name", [plots._WEIGHTS])
def test_maps_grow_darker_with_the_weight_in_grey_too(name):
    colors = matplotlib.colormaps[name](np.linspace(0, 1, 50))[:, :3]
    luminance = colors @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) < 0).all()
    assert luminance[0] - luminance[-1] > 0.6


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_files(tmp_path, kind):
    plots.save(plots.heat_map(WEIGHTS, ROWS, COLUMNS), tmp_path / f"map.{kind}")
    content = (tmp_path / f"map.{kind}").read_bytes()
    assert content == plots.drawn(plots.heat_map(WEIGHTS, ROWS, COLUMNS), kind), "the same numbers, the same file"
    assert [path.name for path in tmp_path.iterdir()] == [f"map.{kind}"]
    if kind == "svg":
        assert set(ROWS + COLUMNS) <= set(ET.fromstring(content).itertext()), "text stays text"
    elif kind == "png":
        assert content.startswith(b"\x89PNG")
        assert min(struct.unpack(">II", content[16:24])) > 200
    else:
        assert content.startswith(b"%PDF")


def test_a_name_that_says_no_format_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"map\.gif: a picture's name ends in \.svg, \.png or \.pdf"):
        plots.save(plots.mask_picture(causal_mask(2)), tmp_path / "map.gif")
