"""Checkpoints: whole or not at all, refused when they do not fit, averaged, pruned; and no pickle anywhere."""

import ast
import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import qkv
from qkv.errors import UserError
from qkv.files import point
from qkv.nn import Transformer, TransformerConfig
from qkv.run import checkpoint as checkpoint_module
from qkv.run.checkpoint import (
    TrainingState,
    average_run,
    average_weights,
    averaged_checkpoints,
    load_model,
    prune,
    read_description,
    read_state,
    read_tensors,
    save_checkpoint,
    set_weights,
    using_weights,
    weights_of,
)
from qkv.run.description import describe
from qkv.run.directory import Run
from qkv.training.records import Records
from qkv.training.trainer import resume, train

OPTIONS = TransformerConfig(10, d_model=8, num_heads=2, d_ff=16, encoder_layers=1, decoder_layers=1)


def model(seed: int = 0, **changes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(replace(OPTIONS, **changes))


def save(directory: Path, seed: int = 0, *, state: TrainingState | None = None, **changes) -> Transformer:
    saved = model(seed, **changes)
    resume = {"random.cpu": torch.get_rng_state()}
    save_checkpoint(directory, saved, saved.config, "transformer", state or TrainingState(), resume=resume)
    return saved


def same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# Written and read back


@pytest.mark.parametrize("tie", ["all", "target", "none"])
def test_what_is_saved_is_loaded(tmp_path, tie):
    state = TrainingState(step=3, epoch=1, seconds=2.5, best=0.1 + 0.2, window={"nll": 1 / 3})
    saved = save(tmp_path / "step-00000003", state=state, tie=tie, dropout=0.25)
    loaded = load_model(tmp_path / "step-00000003", "transformer")
    assert loaded.config == saved.config
    assert same(weights_of(loaded), weights_of(saved))
    assert read_state(tmp_path / "step-00000003") == state


def test_a_tied_matrix_is_stored_once(tmp_path):
    save(tmp_path / "tied", tie="all")
    save(tmp_path / "untied", tie="none")
    tied, untied = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("tied", "untied"))
    assert untied - tied == {"output.weight", "target_embedding.tokens.weight"}


def test_other_weights_may_be_saved_in_place_of_the_models(tmp_path):
    average = {name: tensor + 1 for name, tensor in weights_of(model()).items()}
    save_checkpoint(tmp_path / "c", model(), OPTIONS, "transformer", TrainingState(), weights=average)
    assert same(weights_of(load_model(tmp_path / "c")), average)


def test_weights_are_lent_for_a_while_and_come_back_even_after_an_error():
    one, other = model(1), weights_of(model(2))
    own = {name: tensor.clone() for name, tensor in weights_of(one).items()}

    def use() -> None:
        with using_weights(one, other):
            assert same(weights_of(one), other)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        use()
    assert same(weights_of(one), own)


# Refused


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "missing"])
def test_damaged_tensors(tmp_path, file, damage):
    save(tmp_path / "c")
    path = tmp_path / "c" / file
    good = path.read_bytes()
    path.write_bytes({"cut": good[:-7], "garbage": b"\xff" * len(good), "empty": b"", "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    with pytest.raises(UserError, match=file):
        read_tensors(path)
    if file == "model.safetensors":
        with pytest.raises(UserError, match=file):
            load_model(tmp_path / "c")


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_noticed(tmp_path, file):
    """In a weight it would change outputs, and say nothing."""
    save(tmp_path / "c")
    path = tmp_path / "c" / file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    read = {"model.safetensors": load_model, "state.json": read_state}
    with pytest.raises(UserError, match=rf"{file}"):
        read.get(file, lambda directory: read_tensors(directory / file))(tmp_path / "c")


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '{"sha256": 3}'])
def test_a_manifest_may_be_missing_but_not_damaged(tmp_path, manifest):
    """Checkpoints of before there were checksums have none."""
    saved = save(tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    if manifest is None:
        path.unlink()
        assert same(weights_of(load_model(tmp_path / "c")), weights_of(saved))
    else:
        path.write_text(manifest)
        with pytest.raises(UserError, match=r"manifest\.json: damaged"):
            load_model(tmp_path / "c")


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "\xff",
        '{"format": 1}',
        '{"format": 1, "architecture": "transformer", "model": {}, "training": {}}',
        '{"format": 1, "architecture": "transformer", "model": {"vocab_size": "many"}, "training": {}}',
        '{"format": 1, "architecture": "transformer", "model": {"wings": 2}, "training": {}}',
        '{"format": 1, "architecture": "transformer", "model": [], "training": {}}',
        '{"format": 1, "architecture": "perceptron", "model": {}, "training": {}}',
        '{"format": 2, "architecture": "transformer", "model": {}, "training": {}}',
    ],
)
def test_damaged_description(tmp_path, text, has_manifest):
    save(tmp_path / "c")
    if not has_manifest:
        (tmp_path / "c" / "manifest.json").unlink()
    (tmp_path / "c" / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=str(tmp_path / "c")):
        load_model(tmp_path / "c")


@pytest.mark.parametrize("training", ["[]", '{"steps": 3}', "3", "null"])
def test_damaged_training_state(tmp_path, training):
    save(tmp_path / "c")
    (tmp_path / "c" / "manifest.json").unlink()
    path = tmp_path / "c" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training": json.loads(training)}))
    with pytest.raises(UserError, match=r"state\.json"):
        read_state(tmp_path / "c")


def test_another_architecture(tmp_path):
    save(tmp_path / "c")
    with pytest.raises(UserError, match="'transformer', this run is 'rnn'"):
        load_model(tmp_path / "c", "rnn")


def test_another_shape_names_a_tensor_and_leaves_the_model_alone():
    small, large = model(), model(d_ff=32)
    before = {name: tensor.clone() for name, tensor in weights_of(small).items()}
    with pytest.raises(UserError, match=r"HERE: of another shape: .*feed_forward.* is \(32"):
        set_weights(small, weights_of(large), "HERE")
    with pytest.raises(UserError, match=r"HERE: of another architecture: .*is missing"):
        set_weights(model(encoder_layers=2), weights_of(small), "HERE")
    with pytest.raises(UserError, match=r"HERE: of another architecture: .*not part of this model"):
        set_weights(small, weights_of(model(encoder_layers=2)), "HERE")
    assert same(weights_of(small), before)


def test_a_checkpoint_of_another_run_cannot_be_used(recipe, tmp_path):
    """Its vocabulary is another one; ids of the one would be read with the tokenizer of the other."""
    train(recipe("small", tokenizer={"vocab_size": 20}, training={"steps": 1}), progress=False)
    other = train(recipe("large", training={"steps": 1}), progress=False)
    with pytest.raises(UserError, match=r"step-00000001: of another shape: it has \d+ target tokens, this run has 20"):
        qkv.load(tmp_path / "small", checkpoint=other.checkpoints()[-1])


@pytest.mark.parametrize("changes", [{"d_ff": 64}, {"d_model": 32}, {"encoder_layers": 2}])
def test_resuming_from_a_checkpoint_of_another_shape(recipe, changes):
    """It is refused, and the run stays as good as it was."""
    run = train(recipe(training={"steps": 2}), progress=False)
    before = content(run.path)
    (key, value), *_ = changes.items()
    with pytest.raises(UserError, match=rf"^model\.{key} is \d+ in .* and cannot become {value}: it was made"):
        resume(run.path, [f"model.{key}={value}"], progress=False)
    assert content(run.path) == before


# A full disk


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_of_it(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ("qkv.run.checkpoint.save_file", half_of_it),
        ("qkv.run.checkpoint.json.dumps", full_disk),
        ("qkv.files.os.fsync", full_disk),
        ("qkv.files.os.mkdir", full_disk),
        ("qkv.files.os.replace", full_disk),
    ],
)
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, where, failure):
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints / "step-00000001")
    before = content(tmp_path)
    monkeypatch.setattr(where, failure)
    message = r"step-00000002: cannot save the checkpoint of step 2: the disk is full\. Earlier checkpoints are intact"
    with pytest.raises(UserError, match=message):
        save(checkpoints / "step-00000002", state=TrainingState(step=2))
    monkeypatch.undo()
    assert content(tmp_path) == before
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000001"]


def test_a_failure_leaves_the_checkpoint_that_was_to_be_replaced(tmp_path, monkeypatch):
    save(tmp_path / "c", seed=1)
    before = content(tmp_path)
    monkeypatch.setattr(checkpoint_module, "save_file", half_of_it)
    with pytest.raises(UserError):
        save(tmp_path / "c", seed=2)
    assert content(tmp_path) == before


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot save the checkpoint of step 0: .*File exists"):
        save(tmp_path / "file" / "c")


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Path]:
    """A disk of 400 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_training_on_a_disk_that_is_really_full(recipe, tiny_disk):
    """It stops with the reason, and goes on from the last good checkpoint once there is room."""
    settings = recipe(checkpoints={"keep": 100}, training={"steps": 24}, validation={"every": 2})
    with pytest.raises(UserError, match=r"the disk is full|No space left"):
        train(settings | {"run": str(tiny_disk / "run")}, progress=False)
    run = Run.open(tiny_disk / "run")
    last = run.checkpoints()[-1]
    assert 0 < read_state(last).step < 24

    with pytest.raises(UserError, match=r"the disk is full|No space left"):
        resume(run.path, progress=False)
    assert run.checkpoints()[-1] == last
    qkv.load(run.path).translate("kami")

    for old in run.checkpoints()[:-2]:
        shutil.rmtree(old)
    resume(run.path, ["checkpoints.keep=1"], progress=False)
    whole = train(recipe("whole", training={"steps": 24}, validation={"every": 2}), progress=False)
    weights = (load_file(r.checkpoints()[-1] / "model.safetensors") for r in (run, whole))
    assert same(*weights)


# Averages


def test_the_average_is_the_mean(tmp_path):
    models = [save(tmp_path / f"c{seed}", seed=seed) for seed in range(3)]
    average = average_weights([tmp_path / f"c{seed}" for seed in range(3)])
    for name, tensor in average.items():
        mean = torch.stack([weights_of(one)[name] for one in models]).double().mean(dim=0)
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, mean.float(), rtol=0, atol=1e-7)


def test_what_cannot_be_averaged(tmp_path):
    save(tmp_path / "c1")
    save(tmp_path / "c2", d_ff=32)
    with pytest.raises(UserError, match=r"c2: of another shape than .*c1"):
        average_weights([tmp_path / "c1", tmp_path / "c2"])
    with pytest.raises(UserError, match="no checkpoints to average"):
        average_weights([])
    with pytest.raises(UserError, match="at least 2"):
        average_run(Run(tmp_path), 1)
    with pytest.raises(UserError, match="at least 2 checkpoints, and it has 0"):
        average_run(Run(tmp_path), 2)


def test_a_runs_last_checkpoints_are_averaged(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        save(run.checkpoint_path(step), seed=step, state=TrainingState(step=step))
    averaged = average_run(run, 2)
    assert averaged == run.checkpoints_path / "averaged-00000003"
    expected = average_weights([run.checkpoint_path(2), run.checkpoint_path(3)])
    assert same(weights_of(load_model(averaged, "transformer")), expected)
    assert run.checkpoints() == [run.checkpoint_path(step) for step in (1, 2, 3)], (
        "training resumes from none but these"
    )
    assert not (averaged / "optimizer.safetensors").exists()
    assert averaged_checkpoints(averaged) == ["step-00000002", "step-00000003"], "it says what it is made of"
    assert averaged_checkpoints(run.checkpoint_path(3)) == []
    assert averaged_checkpoints(average_run(run, 5)) == [path.name for path in run.checkpoints()]


# Old ones go


def a_run(tmp_path: Path, steps: list[int], best: int | None = None, stopgaps: tuple[int, ...] = ()) -> Run:
    run = Run(tmp_path)
    for step in steps:
        save(run.checkpoint_path(step), state=TrainingState(step=step, stopgap=step in stopgaps))
    if best is not None:
        point(run.best_path, run.checkpoint_path(best))
    return run


def left(run: Run) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in run.checkpoints()]


@pytest.mark.parametrize(
    ("keep", "best", "kept"), [(1, None, [5]), (3, None, [3, 4, 5]), (2, 2, [2, 4, 5]), (2, 5, [4, 5])]
)
def test_the_newest_and_the_best_are_kept(tmp_path, keep, best, kept):
    run = a_run(tmp_path, [1, 2, 3, 4, 5], best)
    prune(run, keep)
    assert left(run) == kept


def test_stopgaps_go_when_there_is_a_newer_one(tmp_path):
    run = a_run(tmp_path, [1, 2, 3, 4, 5, 6], stopgaps=(2, 4, 6))
    prune(run, 3)
    assert left(run) == [3, 5, 6]


def test_left_overs_of_killed_writes_go(tmp_path):
    run = a_run(tmp_path, [1, 2])
    shutil.copytree(run.checkpoint_path(1), run.checkpoints_path / ".step-00000001.removed")
    shutil.copytree(run.checkpoint_path(1), run.checkpoints_path / ".step-00000003.x7z")
    prune(run, 1)
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-00000002"]


def test_what_average_is_writing_stays(tmp_path, monkeypatch):
    """Training may prune at any moment."""
    run = a_run(tmp_path, [1, 2])
    write = checkpoint_module.write_manifest

    def pruned_meanwhile(directory: Path) -> None:
        prune(run, 1)
        write(directory)

    monkeypatch.setattr(checkpoint_module, "write_manifest", pruned_meanwhile)
    (run.checkpoints_path / ".ipynb_checkpoints").mkdir()
    averaged = average_run(run, 2)
    assert load_model(averaged).config == OPTIONS
    assert (run.checkpoints_path / ".ipynb_checkpoints").is_dir(), "not ours"


def test_a_damaged_old_checkpoint_is_in_nobodys_way(tmp_path):
    run = a_run(tmp_path, [1, 2, 3])
    (run.checkpoint_path(1) / "state.json").write_text("{")
    prune(run, 2)
    assert left(run) == [2, 3]


# What is said of a run


def test_buffers_are_no_parameters(recipe):
    run = train(recipe(model={"norm": "batch"}, training={"steps": 1}), progress=False)
    expected = sum(parameter.numel() for parameter in load_model(run.find_checkpoint()).parameters())
    stored = sum(tensor.numel() for tensor in load_file(run.find_checkpoint() / "model.safetensors").values())
    assert stored > expected, "there are buffers"
    assert f"transformer, {expected:,} parameters" in describe(run)


def test_numbers_that_are_not_finite_are_null(tmp_path):
    records = Records(Run(tmp_path), 0)
    records.add("train", 1, gradient_norm=float("inf"), loss=float("nan"))
    records.close()
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert Run(tmp_path).metrics() == [{"event": "train", "step": 1, "gradient_norm": None, "loss": None}]


@pytest.mark.parametrize("line", ["{", "\xff", "[]", '{"event": "train"}', "3"])
def test_a_damaged_line_is_named(tmp_path, line):
    whole = '{"event": "train", "step": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(f"{whole}{line}\n{whole}", encoding="latin-1")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: damaged; mend or remove this line"):
        Run(tmp_path).metrics()
    (tmp_path / "metrics.jsonl").write_text(f"{whole}{line}", encoding="latin-1")
    assert len(Run(tmp_path).metrics()) == 1, "cut off by a crash"


# Nothing executable


def test_no_pickle_anywhere():
    """What is loaded cannot run code: no module of qkv names pickle or torch.load and torch.save."""
    for path in sorted(Path(qkv.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                roots = {name.split(".")[0] for name in names}
                assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in ("load", "save"), path
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path


def test_a_checkpoint_is_tensors_and_json(tmp_path):
    save(tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert read_description(tmp_path / "c")["model"]["d_model"] == 8
