"""The script is loaded by its path, as users run it: no part of the package. Nothing depends on the clock."""

import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LENGTHS = [16, 32, 64, 128, 256]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        spec = importlib.util.spec_from_file_location("complexity", BENCHMARKS / "complexity.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    for name in ("record", "complexity_layers"):
        sys.modules.pop(name, None)


@pytest.fixture(params=["self-attention", "recurrent", "convolutional", "restricted self-attention"])
def layer(request, script):
    torch.manual_seed(0)
    kinds = {kind.name: kind for kind in script.LAYERS}
    return kinds[request.param](8).double()


@pytest.fixture
def restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("power", [0, 1, 1.5, 2])
def test_the_exponent_is_recovered_from_the_longer_half(script, power):
    seconds = [3e-4 * n**power for n in LENGTHS]
    assert script.exponent(LENGTHS, seconds) == pytest.approx(power)
    assert script.exponent(LENGTHS, [1.0, 1.0, *seconds[2:]]) == pytest.approx(power)


def test_the_fit_recovers_the_cost_of_a_call_and_the_speed(script):
    operations = [10_000 * n for n in LENGTHS]
    seconds = np.array([0.002 + count / 4e9 for count in operations])
    exact = script.fit(operations, seconds)
    assert exact["milliseconds_at_zero"] == pytest.approx(2)
    assert exact["operations_per_second"] == pytest.approx(4e9)
    assert exact["r_squared"] == 1
    assert script.fit(operations, seconds * [2, 0.5, 2, 0.5, 2])["r_squared"] < 0.9
    assert script.fit([7] * len(LENGTHS), seconds) is None
    assert script.fit(operations, seconds[::-1])["operations_per_second"] is None


def test_growth_takes_medians(script):
    of_layer = script.growth(LENGTHS, [[n / 1000, n / 1000, 1000.0] for n in LENGTHS], [n**2 for n in LENGTHS])
    assert of_layer["milliseconds"] == LENGTHS
    assert of_layer["lower_quartile"] == LENGTHS
    assert all(value > 100_000 for value in of_layer["upper_quartile"])
    assert (of_layer["exponent"], of_layer["exponent_of_operations"]) == (1, 2)


def test_quadratic_time_crosses_linear_time_where_they_are_equal(script):
    quadratic = [n**2 for n in LENGTHS]
    assert script.crossing(LENGTHS, quadratic, [100 * n for n in LENGTHS]) == pytest.approx(100)
    assert script.crossing(LENGTHS, quadratic, [64 * n for n in LENGTHS]) == pytest.approx(64)
    assert script.crossing(LENGTHS, quadratic, [1000 * n for n in LENGTHS]) is None
    assert script.crossing(LENGTHS, quadratic, LENGTHS) == 16
    words = [script.where(crossing, LENGTHS) for crossing in (None, 16.0, 99.6)]
    assert words == ["at none of these lengths", "at all of these lengths", "from n = 100"]


def test_by_the_operations_attention_is_the_dearer_above_n_equal_to_d(script):
    attention, recurrent, convolution, _ = (kind(64) for kind in script.LAYERS)
    for other in (recurrent, convolution):
        assert attention.operations(63) < other.operations(63)
        assert attention.operations(64) == other.operations(64)
        assert attention.operations(65) > other.operations(65)


def test_operations_are_as_the_formula_says(script, layer):
    names = {"n": 48, "d": 8, "k": script.KERNEL, "r": script.REACH}
    formula = layer.counted.replace("·", "*").replace("²", "**2")
    assert layer.operations(48) == eval(formula, names)


def test_one_step_gives_the_last_position_of_the_whole_sequence(layer):
    x = torch.randn(3, 40, 8, dtype=torch.float64)
    for earlier in (1, 2, 14, 15, 16, 17, 39):  # on both sides of what restricted attention and a convolution keep
        state = layer.read(x[:, :earlier])
        whole = layer(x[:, : earlier + 1])
        for _ in range(2):  # the second time as the first: a step can be timed again
            step = layer.step(x[:, earlier : earlier + 1], state)
            torch.testing.assert_close(step, whole[:, -1:], rtol=0, atol=1e-12)


def test_restricted_attention_sees_its_neighbours_and_no_other(script):
    layer = script.LAYERS[3](8).double()
    x = torch.randn(1, 40, 8, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    for position in (0, 14, 15, 16, 31, 32, 39):
        (gradient,) = torch.autograd.grad(output[:, position].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(dim=-1).nonzero().flatten().tolist()
        assert seen == list(range(max(0, position - script.REACH + 1), position + 1))


@pytest.mark.parametrize("length", [2, 7, 16, 17])
def test_path_lengths_are_as_the_theory_says(script, layer, length):
    reach = {"convolutional": script.KERNEL, "restricted self-attention": script.REACH}
    expected = {"self-attention": 1, "recurrent": length}
    if layer.name in reach:
        expected[layer.name] = -(-(length - 1) // (reach[layer.name] - 1))
    assert layer.path_length(length) == expected[layer.name]


def test_only_the_recurrent_layer_has_a_chain_that_grows(script, layer):
    # More than one block of restricted attention each: the last one is filled up, or not.
    chains = [script.longest_chain(layer, length) for length in (32, 64, 96)]
    if layer.name == "recurrent":
        assert chains[2] - chains[1] == chains[1] - chains[0] >= 32
    else:
        assert len(set(chains)) == 1


def test_the_longest_chain_is_the_longest_way_through_the_operations(script):
    class Diamond(torch.nn.Module):
        width = 2

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x):
            start = x * self.weight  # 1
            return start.exp() + start.sin().cos().tanh()  # 3 more on the longer way, and the sum

    assert script.longest_chain(Diamond(), 3) == 5


def test_the_command_writes_numbers_and_a_picture(script, tmp_path, capsys, monkeypatch, restored_threads):
    monkeypatch.setattr(script, "SHORTEST_SAMPLE", 0)
    monkeypatch.setattr(script, "SHORT_LENGTHS", (4, 8))
    lengths = ["--lengths", "8", "4", "2", "4", "--width", "8", "--batch", "2", "--repeats", "2", "--threads", "1"]
    script.main([*lengths, "--output", str(tmp_path / "new")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["complexity.json", "complexity.svg"]

    result = json.loads((tmp_path / "new" / "complexity.json").read_text(encoding="utf-8"))
    assert result["lengths"] == [2, 4, 8]
    assert result["environment"]["threads"] == 1
    assert result["environment"]["torch"] == torch.__version__
    names = [kind.name for kind in script.LAYERS]
    for measurement in ("training", "decoding_step"):
        assert list(result[measurement]) == names
        for of_layer in result[measurement].values():
            assert len(of_layer["milliseconds"]) == 3
            assert all(value > 0 for value in of_layer["milliseconds"])
    assert result["decoding_step"]["recurrent"]["fit"] is None
    assert result["path_length"]["recurrent"] == {"4": 4, "8": 8}

    picture = (tmp_path / "new" / "complexity.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    printed = capsys.readouterr().out
    assert f"python benchmarks/complexity.py {' '.join(lengths)}" in result["command"]
    for name in names:
        assert name in picture
        assert f"| {name} |" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "16", "32", "32"], "three lengths"),
        (["--lengths", "0", "16", "32"], "positive"),
        (["--repeats", "0"], "positive"),
        (["--width", "10"], "multiple of the 4 heads"),
    ],
)
def test_impossible_options_are_one_clear_message(script, capsys, arguments, message):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err
