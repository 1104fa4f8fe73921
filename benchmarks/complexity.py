"""Table 1 of Vaswani et al. 2017 (section 4), measured: how the time of one layer of each kind grows with the length of
the sequence, in training and in one step of decoding; how much of it is serial; how far apart two positions are.
Writes benchmarks/results/complexity.json and complexity.svg. Nothing else should run meanwhile.

    python benchmarks/complexity.py [--lengths 16 32 64 ...] [--threads 1] [--repeats 7]
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import record
import torch
from complexity_layers import (
    HEADS,
    KERNEL,
    LAYERS,
    REACH,
    Convolutional,
    Layer,
    Recurrent,
    SelfAttention,
    longest_chain,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from qkv.files import write_text
from qkv.measuring.environment import Environment, now
from qkv.pages.style import COLORS

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
SHORT_LENGTHS = (8, 16, 32, 64)
"""For what is counted, not timed."""
MEASUREMENTS = {"training": "Training, forward and backward", "decoding_step": "One decoding step"}
SHORTEST_SAMPLE = 0.01
"""Seconds; shorter calls are repeated within a sample."""

Sampler = Callable[[], float]
Samples = dict[str, dict[str, list[list[float]]]]
"""Measurement → layer → seconds of every repeat, per length."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, fit, count; print the tables and write them."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layers = [kind(options.width) for kind in LAYERS]
    samples = measure(layers, options.lengths, options.batch, options.repeats)
    result: dict[str, Any] = {
        "date": now(),
        "environment": vars(Environment.here("cpu")),
        "command": " ".join(["python benchmarks/complexity.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "width": options.width,
        "batch": options.batch,
        "heads": HEADS,
        "kernel_size": KERNEL,
        "reach": REACH,
        "repeats": options.repeats,
        "lengths": options.lengths,
    }
    for name in MEASUREMENTS:
        result[name] = {
            layer.name: growth(
                options.lengths,
                samples[name][layer.name],
                [operations(name, layer, length, options.batch) for length in options.lengths],
            )
            for layer in layers
        }
    result["attention_slower_from"] = {name: crossings(result[name], options.lengths) for name in MEASUREMENTS}
    result |= counted()
    print(*report(result), sep="\n")
    write_text(options.output / "complexity.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    draw(result, options.output / "complexity.svg")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; lengths come sorted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--width", type=int, default=128, help="d, of input and output")
    parser.add_argument("--batch", type=int, default=8, help="sequences at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=record.RESULTS, help="directory")
    options = parser.parse_args(arguments)
    options.lengths = sorted(set(options.lengths))
    if len(options.lengths) < 3:
        parser.error("growth needs at least three lengths")
    if min(*options.lengths, options.width, options.batch, options.threads, options.repeats) < 1:
        parser.error("all numbers must be positive")
    if options.width % HEADS:
        parser.error(f"--width must be a multiple of the {HEADS} heads")
    return options


def measure(layers: Sequence[Layer], lengths: Sequence[int], batch: int, repeats: int) -> Samples:
    """Time all layers at all lengths by turns, so that what disturbs the machine for a while disturbs all of them."""
    samples: Samples = {name: {layer.name: [[] for _ in lengths] for layer in layers} for name in MEASUREMENTS}
    samplers: list[tuple[list[float], Sampler]] = []
    for index, length in enumerate(lengths):
        x = torch.randn(batch, length, layers[0].width)
        for layer in layers:
            samplers.append((samples["training"][layer.name][index], sampler(training(layer, x))))
            samplers.append((samples["decoding_step"][layer.name][index], sampler(decoding_step(layer, x))))
    for repeat in range(repeats):
        print(f"round {repeat + 1} of {repeats}", file=sys.stderr)
        for seconds, sample in samplers:
            seconds.append(sample())
    return samples


def training(layer: Layer, x: torch.Tensor) -> Callable[[], object]:
    """What a training does with a layer: its output, and the gradients of its weights and of its input."""
    x = x.clone().requires_grad_()
    from_above, wanted = torch.randn_like(x), [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, from_above)


def decoding_step(layer: Layer, x: torch.Tensor) -> Callable[[], object]:
    """One more token, after as many as `x` has."""
    with torch.inference_mode():
        state = layer.read(x)

    def step() -> object:
        with torch.inference_mode():
            return layer.step(x[:, -1:], state)

    return step


def sampler(call: Callable[[], object]) -> Sampler:
    """Warm up, and find how many calls in a row take long enough to be timed; a sample is the seconds of one call."""
    call()
    began = time.perf_counter()
    call()
    calls = max(1, round(SHORTEST_SAMPLE / (time.perf_counter() - began)))

    def sample() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - began) / calls

    return sample


def operations(measurement: str, layer: Layer, length: int, batch: int) -> int:
    """Multiplications in what is measured; each of a forward pass has two in the backward pass."""
    if measurement == "training":
        return 3 * batch * layer.operations(length)
    return batch * layer.step_operations(length)


def growth(lengths: Sequence[int], samples: Sequence[Sequence[float]], operations: Sequence[int]) -> dict[str, Any]:
    """A layer's times and how they grow.

    Args:
        lengths: of the sequences.
        samples: seconds, per length.
        operations: by the theory, per length.
    """
    lower, median, upper = np.percentile(np.array(samples), [25, 50, 75], axis=1)
    return {
        "milliseconds": rounded(median),
        "lower_quartile": rounded(lower),
        "upper_quartile": rounded(upper),
        "operations": list(operations),
        "exponent": exponent(lengths, median),
        "exponent_of_operations": exponent(lengths, operations),
        "fit": fit(operations, median),
    }


def rounded(seconds: np.ndarray) -> list[float]:
    """In milliseconds, to four digits."""
    return [float(f"{1000 * value:.4g}") for value in seconds]


def exponent(lengths: Sequence[int], values: Sequence[float] | np.ndarray) -> float:
    """The p of values ∝ lengthᵖ, by least squares of the logarithms over the upper half of the lengths (at least 3).

    Short sequences are left out, as their time is mostly what a call costs at all.
    """
    first = min(len(lengths) // 2, len(lengths) - 3)
    slope, _ = np.polyfit(np.log(lengths[first:]), np.log(values[first:]), 1)
    return round(float(slope), 2) + 0.0  # never −0


def fit(operations: Sequence[int], seconds: np.ndarray) -> dict[str, float | None] | None:
    """Least squares of seconds = a + b · operations; None where the theory says that nothing grows.

    As errors are absolute, the longest sequences decide; the exponent is the harder test.
    """
    if len(set(operations)) == 1:
        return None
    b, a = np.polyfit(np.array(operations, dtype=float), seconds, 1)
    residual = seconds - (a + b * np.array(operations, dtype=float))
    return {
        "milliseconds_at_zero": round(1000 * float(a), 4),
        "operations_per_second": round(float(1 / b)) if b > 0 else None,
        "r_squared": round(1 - float(residual.var() / seconds.var()), 4),
    }


def crossings(of_layers: dict[str, dict[str, Any]], lengths: Sequence[int]) -> dict[str, dict[str, float | None]]:
    """From which length on self-attention is slower than the others that Table 1 compares it with."""

    def against(other: str, what: str) -> float | None:
        return crossing(lengths, of_layers[SelfAttention.name][what], of_layers[other][what])

    return {
        name: {"measured": against(name, "milliseconds"), "theory": against(name, "operations")}
        for name in (Recurrent.name, Convolutional.name)
    }


def crossing(lengths: Sequence[int], ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The length from which `ours` is longer, up to the last; between two lengths, where straight log-log lines meet.

    Returns:
        None if `ours` is not longer at the last length; the first length if it is longer everywhere.
    """
    excess = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    if excess[-1] <= 0:
        return None
    shorter = [index for index, value in enumerate(excess) if value <= 0]
    if not shorter:
        return float(lengths[0])
    last = shorter[-1]
    share = -excess[last] / (excess[last + 1] - excess[last])
    return round(lengths[last] * (lengths[last + 1] / lengths[last]) ** share, 1)


def counted() -> dict[str, dict[str, dict[str, int]]]:
    """What needs no clock: operations in a row, and path lengths, of small layers at short lengths."""
    layers = [kind(2 * HEADS).double() for kind in LAYERS]
    return {
        "operations_in_a_row": {
            layer.name: {str(length): longest_chain(layer, length) for length in SHORT_LENGTHS} for layer in layers
        },
        "path_length": {
            layer.name: {str(length): layer.path_length(length) for length in SHORT_LENGTHS} for layer in layers
        },
    }


def report(result: dict[str, Any]) -> Iterator[str]:
    """The result as Markdown."""
    environment = result["environment"]
    yield f"{environment['hardware']}, {environment['threads']} of its cores, torch {environment['torch']}"
    yield f"d = {result['width']}, batch {result['batch']}, {HEADS} heads, k = {KERNEL}, r = {REACH}"
    yield f"medians of {result['repeats']}; exponents over the upper half of the lengths"
    for name, title in MEASUREMENTS.items():
        yield from ["", f"## {title}, milliseconds", ""]
        yield from table(
            ["layer", *(f"n = {n}" for n in result["lengths"]), "exponent", "of the operations", "R²"],
            [[layer, *row(of_layer)] for layer, of_layer in result[name].items()],
        )
        for other, length in result["attention_slower_from"][name].items():
            measured, theory = (where(n, result["lengths"]) for n in length.values())
            yield from ["", f"Self-attention is slower than the {other} layer {measured}; by the operations, {theory}."]
    yield from ["", "## Counted", ""]
    chains, paths = result["operations_in_a_row"], result["path_length"]
    at = ", ".join(str(n) for n in SHORT_LENGTHS)
    yield from table(
        ["layer", "complexity", "counted as", "sequential", f"measured at n = {at}", "path", f"measured at n = {at}"],
        [
            [
                *(kind.name, kind.complexity, kind.counted),
                *(f"O({kind.sequential})", ", ".join(map(str, chains[kind.name].values()))),
                *(f"O({kind.path})", ", ".join(map(str, paths[kind.name].values()))),
            ]
            for kind in LAYERS
        ],
    )
    yield from [
        "",
        "Table 1 gives convolutions a path of O(log_k n), that of dilated kernels; these are contiguous: O(n/k).",
    ]


def where(crossing: float | None, lengths: Sequence[int]) -> str:
    """A crossing in words."""
    if crossing is None:
        return "at none of these lengths"
    return "at all of these lengths" if crossing == lengths[0] else f"from n = {crossing:.0f}"


def row(of_layer: dict[str, Any]) -> list[str]:
    """A layer's times, exponents and R², as the table shows them."""
    fitted = of_layer["fit"]
    return [
        *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in of_layer["milliseconds"]),
        f"{of_layer['exponent']:.2f}",
        f"{of_layer['exponent_of_operations']:.2f}",
        "–" if fitted is None else f"{fitted['r_squared']:.3f}",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def draw(result: dict[str, Any], path: Path) -> None:
    """Both measurements on logarithmic axes: medians with quartiles, and the theory's slope through the last."""
    with matplotlib.rc_context({"svg.hashsalt": "complexity", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 4.6), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 2)
        for axes, (name, title) in zip(panels, MEASUREMENTS.items(), strict=True):
            draw_panel(axes, result[name], result["lengths"], result["width"])
            axes.set_title(title, loc="left")
            axes.set_xlabel("n, earlier tokens" if name == "decoding_step" else "n, length of the sequence")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def draw_panel(axes: Axes, of_layers: dict[str, Any], lengths: Sequence[int], width: int) -> None:
    """One measurement; layers differ in colour and in marker."""
    for (name, of_layer), color, marker in zip(of_layers.items(), COLORS, "os^D", strict=False):
        median = np.array(of_layer["milliseconds"])
        spread = [median - of_layer["lower_quartile"], of_layer["upper_quartile"] - median]
        axes.errorbar(
            lengths, median, spread, color=color, marker=marker, markersize=4.5, linewidth=1.2, capsize=2, label=name
        )
        theory = np.array(of_layer["operations"]) / of_layer["operations"][-1] * median[-1]
        axes.plot(lengths, theory, color=color, linestyle=(0, (4, 3)), linewidth=0.9)
    axes.plot([], [], color="black", linestyle=(0, (4, 3)), linewidth=0.9, label="theory: as the operations grow")
    axes.axvline(width, color="gray", linestyle=":", label="n = d")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_ylabel("milliseconds")
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
