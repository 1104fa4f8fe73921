"""`qkv benchmark`: what it measures is counted rightly, it leaves the run alone, and it says what it left out."""

import json
import mmap
from pathlib import Path

import pytest
import torch

from qkv.cli.main import main
from qkv.config.schema import TrainingConfig
from qkv.errors import UserError
from qkv.experiment.experiment import train
from qkv.measuring import benchmark as benchmark_module
from qkv.measuring import environment as environment_module
from qkv.measuring.benchmark import (
    _decoding_rate,
    _spread,
    _training_rate,
    _within,
    benchmark,
    peak_megabytes,
    reset_peak,
)
from qkv.nn import Transformer, TransformerConfig
from qkv.translator import Translator

PAIRS = [("ab", "A B"), ("ba c", "B A C"), ("abc", "A B C"), ("cab", "C A B"), ("bad", "B A D"), ("cd a", "C D A")]
MODEL = {"d_model": 16, "num_heads": 2, "d_ff": 16, "encoder_layers": 1, "decoder_layers": 1}
CPU = torch.device("cpu")


def trained(path, model):
    (path / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), "utf-8")
    recipe = {
        "run": str(path / "run"),
        "data": {"root": str(path), "train": "pairs.tsv", "validation": "pairs.tsv"},
        "tokenizer": {"kind": "char"},
        "model": model,
        "training": {"steps": 2, "batch_tokens": 64},
        "validation": {"samples": 0},
        "decoding": {"beam": 2},
        "threads": 1,
    }
    return train(recipe, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory, without_shape_checks):
    return trained(tmp_path_factory.mktemp("transformer"), MODEL)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory, without_shape_checks):
    model = {"architecture": "gru", "d_model": 8}
    return trained(tmp_path_factory.mktemp("recurrent"), model)


class Fake(Translator):
    """Translates nothing, but takes its time."""

    def __init__(self, translate):
        self.device, self.translate = CPU, translate


class TestCounting:
    """By a clock of our own, which only work moves on."""

    @pytest.fixture
    def clock(self, monkeypatch):
        class Clock:
            now = 0.0

            def perf_counter(self):
                return self.now

        clock = Clock()
        for module in (benchmark_module, environment_module):
            monkeypatch.setattr(module, "time", clock)
        return clock

    def test_decoding(self, clock):
        calls = []

        def translate(texts, beam):
            """0.1 s for a call, and 0.01 s more for every sentence in it."""
            calls.append((len(texts), beam))
            clock.now += 0.1 + 0.01 * len(texts)

        sources = [str(number) for number in range(500)]
        found = _decoding_rate(Fake(translate), "torch", "float32", sources, 3, seconds=6.0)
        assert found.latency_median == pytest.approx(110)
        assert found.latency_p95 == pytest.approx(110)
        assert found.singles == pytest.approx(6.0 / 0.11, abs=1)
        few = int(6.0 / 4 / 0.11)
        assert found.sentences == pytest.approx(few * 2.0 / (0.1 + 0.01 * few), abs=1)
        assert found.sentences_per_second == pytest.approx(found.sentences / (0.1 + 0.01 * found.sentences))
        assert {beam for _, beam in calls} == {3}
        assert clock.now < 3 * 6.0

    def test_the_slowest_of_a_hundred(self, clock):
        def translate(texts, beam):
            clock.now += sum(map(float, texts))

        sources = [str(number) for number in range(1, 101)]
        found = _decoding_rate(Fake(translate), "torch", "float32", sources, 1, seconds=1e6)
        assert found.latency_p95 == pytest.approx(95_000)
        assert found.latency_median == pytest.approx(50_500)

    def test_training(self, clock, monkeypatch):
        from qkv.text.batches import Batch

        class Step:
            def __init__(self, model, settings):
                self.speed = 500 if settings.precision == "float32" else 5

            def __call__(self, batches):
                clock.now += sum(batch.num_target_tokens for batch in batches) / self.speed

            def close(self):
                pass

        monkeypatch.setattr(benchmark_module, "TrainingStep", Step)
        tokens = torch.zeros(4, 25, dtype=torch.int64)
        batches = [Batch(tokens, None, tokens, tokens, None, 100)] * 20
        model = Transformer(TransformerConfig(vocab_size=5, **MODEL))
        found = _training_rate(model, batches, TrainingConfig(), seconds=1.0)
        assert found.tokens_per_second == pytest.approx(500)
        assert found.batches == pytest.approx(5, abs=1)
        with pytest.raises(UserError, match="one batch would take about 20 s"):
            _training_rate(model, batches, TrainingConfig(precision="bf16"), seconds=1.0)

    def test_the_fewest_are_done_even_if_time_is_up(self, clock):
        def items(fewest):
            for item in _within(1.0, range(10), fewest):
                clock.now += 0.6
                yield item

        assert list(items(1)) == [0, 1]
        assert list(items(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 7, 64, 100, 1000])
def test_a_beginning_of_a_choice_is_spread_as_the_whole_is(count):
    chosen = _spread(range(100), count)
    assert sorted(chosen) == sorted(set(chosen))
    assert len(chosen) == min(count, 100)
    if count >= 64:
        assert all(any(low <= item < low + 25 for item in chosen[:16]) for low in (0, 25, 50, 75))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_the_peak_of_memory_is_forgotten():
    reset_peak(CPU)
    before = peak_megabytes(CPU)
    with mmap.mmap(-1, 100 * 2**20) as memory:  # not from malloc, which may have been told to keep what it has
        for page in range(0, len(memory), 4096):
            memory[page] = 1
    assert peak_megabytes(CPU) > before + 90
    reset_peak(CPU)
    assert peak_megabytes(CPU) < before + 50


class TestRun:
    def test_a_row_for_each_engine_and_beam(self, run):
        pytest.importorskip("ctranslate2")
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        found = benchmark(run.path, seconds=0.1)
        rows = [(row.engine, row.precision, row.beam) for row in found.decoding]
        for row in [("torch", "float32", 1), ("torch", "float32", 2), ("ctranslate2", "float32", 2)]:
            assert row in rows
        assert found.training[0].precision == "float32"
        for row in [*found.training, *found.decoding]:
            rate = getattr(row, "tokens_per_second", None) or row.sentences_per_second
            assert rate > 0
        measured = {f"{row.engine} {row.precision}" for row in found.decoding}
        missing = {reason.partition(":")[0] for reason in found.left_out if not reason.startswith("training")}
        assert not measured & missing
        assert len(measured | missing) == 6
        assert {path: path.read_bytes() for path in before} == before
        kept = {path.relative_to(run.path).parts[0] for path in before} | {"best", "engines"}
        assert {path.name for path in run.path.iterdir()} == kept

    def test_what_ctranslate2_cannot_run_is_left_out(self, recurrent):
        pytest.importorskip("ctranslate2")
        found = benchmark(recurrent.path, seconds=0.1)
        assert {row.engine for row in found.decoding} == {"torch"}
        assert "ctranslate2 float32: CTranslate2 runs Transformers, and this model is a RecurrentSeq2Seq" in (
            found.left_out
        )
        with pytest.raises(UserError, match="nothing can decode"):
            benchmark(recurrent.path, seconds=0.1, engines=["ctranslate2"])

    def test_pairs_that_are_gone(self, recurrent):
        pairs = recurrent.path.parent / "pairs.tsv"
        pairs.rename(pairs.with_suffix(".moved"))
        with pytest.raises(UserError, match=r"none of its pairs can be read; say --data FILE \(.*pairs.tsv"):
            benchmark(recurrent.path)
        assert main(["benchmark", str(recurrent.path), "--seconds", "1", "--engine", "torch", "--data", "x.tsv"]) == 2
        pairs.with_suffix(".moved").rename(pairs)


class TestVerb:
    def test_prints_tables(self, run, capsys):
        assert main(["benchmark", str(run.path), "--seconds", "1", "--engine", "torch", "--beam", "3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        tables = [line for line in lines if line.startswith("|")]
        assert tables[0].startswith("| training | target tokens/s")
        assert any(line.startswith("| torch float32 | greedy |") for line in tables)
        assert any(line.startswith("| torch float32 | beam 3 |") for line in tables)
        assert len({len(line) for line in tables if "torch" in line}) == 1

    def test_writes_files(self, run, tmp_path):
        verb = ["benchmark", str(run.path), "--seconds", "1", "--engine", "torch", "--output"]
        assert main([*verb, str(tmp_path / "rates.json")]) == 0
        assert main([*verb, str(tmp_path / "rates.md")]) == 0
        data = json.loads((tmp_path / "rates.json").read_text("utf-8"))
        assert data["decoding"][0]["engine"] == "torch"
        assert data["environment"]["threads"] >= 1
        assert data["parameters"] > 0
        assert "| decoding" in (tmp_path / "rates.md").read_text("utf-8")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--output", "rates.txt"], "rates.txt: a benchmark's name ends in .md or .json"),
            (["--engine", "onnx"], "unknown engine 'onnx'; there are: torch, ctranslate2"),
            (["--seconds", "0"], "a number of at least 1 is needed"),
        ],
    )
    def test_the_users_mistakes(self, arguments, message, run, capsys):
        assert main(["benchmark", str(run.path), *arguments]) == 2
        assert message in capsys.readouterr().err
