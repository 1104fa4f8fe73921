"""From the measurements, the few numbers that are quoted, and tables of them."""

from typing import Any

Details = dict[str, dict[str, Any]]


def headlines(details: Details) -> dict[str, Any]:
    """System → one number for each comparison: the medians, without all that stands behind them."""
    found: dict[str, Any] = {}
    for part, result in details.items():
        if part.startswith("training."):
            speeds = {name: system["target_tokens_per_second"] for name, system in result["systems"].items()}
            found.setdefault("training", {})[part.removeprefix("training.")] = speeds
        else:
            for beam, key in (("greedy", "decoding"), ("beam5", "decoding_beam5")):
                systems = {name: system[beam] for name, system in result["systems"].items()}
                found[key] = {name: system["sentences_per_second"] for name, system in systems.items()}
                waits = {name: {k: s["latency_ms"][k] for k in ("median", "p95")} for name, s in systems.items()}
                found.setdefault("latency_ms", {})[beam] = waits
                found.setdefault("bleu", {})[beam] = {name: system["bleu"] for name, system in systems.items()}
    return found


def markdown(results: dict[str, Any]) -> str:
    """All tables, one for each part, and for decoding one for each beam."""
    tables = []
    for part, result in results["details"].items():
        if part.startswith("training."):
            tables.append(_training(part, result))
        else:
            tables += [_decoding(part, beam, result) for beam in ("greedy", "beam5")]
    return "\n\n".join(tables)


def _training(part: str, result: dict[str, Any]) -> str:
    systems = result["systems"]
    fastest = _fastest_peer({name: system["target_tokens_per_second"] for name, system in systems.items()})
    heads = [
        "system",
        "target tokens/s (lowest–highest round)",
        "× fastest peer",
        "of the matrix-product peak",
        "memory",
    ]
    rows = []
    for name, system in systems.items():
        speed = system["target_tokens_per_second"]
        rows.append(
            [
                name,
                f"{speed:,.0f} ({system['lowest']:,.0f}–{system['highest']:,.0f})",
                f"{speed / fastest:.2f}" if fastest else "–",
                f"{100 * system['share_of_matrix_product_peak']:.0f} %",
                f"{system['peak_memory_mb']:,} MB",
            ]
        )
    return _table(part, heads, rows, result)


def _decoding(part: str, beam: str, result: dict[str, Any]) -> str:
    systems = result["systems"]
    fastest = _fastest_peer({name: system[beam]["sentences_per_second"] for name, system in systems.items()})
    heads = [
        "system",
        "sentences/s (lowest–highest round)",
        "× fastest peer",
        "one sentence: median, 95th percentile",
        "BLEU",
        "same output as qkv-float32",
        "memory",
    ]
    rows = []
    for name, system in systems.items():
        found = system[beam]
        speed, wait, same = (
            found["sentences_per_second"],
            found["latency_ms"],
            found.get("outputs_equal_to_qkv_float32"),
        )
        rows.append(
            [
                name,
                f"{speed:,.1f} ({found['lowest']:,.1f}–{found['highest']:,.1f})",
                f"{speed / fastest:.2f}" if fastest else "–",
                f"{wait['median']:.1f} ms, {wait['p95']:.1f} ms ({wait['threads']} threads)",
                f"{found['bleu']:.2f}",
                "–" if same is None else f"{100 * same:.1f} %",
                f"{system['peak_memory_mb']:,} MB",
            ]
        )
    return _table(f"{part}, {beam}", heads, rows, result)


def _fastest_peer(speeds: dict[str, float]) -> float | None:
    return max((speed for name, speed in speeds.items() if not name.startswith("qkv")), default=None)


def _table(title: str, heads: list[str], rows: list[list[str]], result: dict[str, Any]) -> str:
    rows = rows + [[name, f"not measured: {why}", *[""] * (len(heads) - 2)] for name, why in result["failed"].items()]
    lines = [f"### {title}", "", *(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])]
    machine = result["hardware"]
    lines += [
        "",
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), "
        f"{machine['memory_gb']} GB, {machine['system']}; {result['settings']['threads']} threads; "
        f"{result['measured']}, load average {machine['load_average_before_the_end']}",
        "",
        *(f"- {name}: {system['about']}; {_versions(system)}" for name, system in result["systems"].items()),
    ]
    return "\n".join(lines)


def _versions(system: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in system["versions"].items())
