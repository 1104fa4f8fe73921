"""What config.yaml says is what was done: each key, changed when a run goes on, is obeyed, or refused by its name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.optim.adamw import adamw

from qkv.config.loading import load_config
from qkv.config.reference import _choices_of
from qkv.config.schema import Config
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.errors import UserError
from qkv.nn.architectures import ARCHITECTURES
from qkv.run.changes import flat
from qkv.run.checkpoint import read_state
from qkv.run.directory import Run
from qkv.settings import all_keys, section_of
from qkv.training import trainer as trainer_module
from qkv.training.trainer import Trainer, resume, train

pytestmark = pytest.mark.usefixtures("without_shape_checks")

Seen = SimpleNamespace
"""What was done: the `trainer`, its `run`, `groups` of batches in a step, `threads`, `searches`, `averaged`."""


def records(seen: Seen, event: str) -> list[dict[str, Any]]:
    return [record for record in seen.run.metrics() if record["event"] == event and record["step"] > STEPS]


def group(seen: Seen) -> dict[str, Any]:
    return seen.trainer.optimization._optimizers[0].param_groups[0]


def apart(steps: list[int]) -> int:
    """How many steps lie between two."""
    return steps[-1] - steps[-2]


STEPS, MORE = 4, 8
# Keys that may change: a new value, and where it shows that it was obeyed.
OBEYED: dict[str, tuple[Any, Callable[[Seen], Any]]] = {
    "device": ("auto", lambda seen: "auto" if seen.trainer.device.type in ("cpu", "cuda") else None),
    "threads": (2, lambda seen: seen.threads),
    "model.dropout": (0.3, lambda seen: seen.trainer.model.config.dropout),
    "model.attention_dropout": (0.3, lambda seen: seen.trainer.model.config.attention_dropout),
    "model.activation_dropout": (0.3, lambda seen: seen.trainer.model.config.activation_dropout),
    "training.batch_tokens": (90, lambda seen: seen.trainer.state.batch_tokens),
    "training.accumulate": (2, lambda seen: max(seen.groups)),
    "training.steps": (6, lambda seen: seen.trainer.state.step),
    "training.epochs": (1, lambda seen: seen.trainer.state.passes),
    "training.budget": (900.0, lambda seen: 900.0 if seen.trainer.schedule.timed else None),
    "training.optimizer": (
        "adam",
        lambda seen: "adamw" if seen.trainer.optimization._optimizers[0]._update is adamw else "adam",
    ),
    "training.learning_rate": (1e-4, lambda seen: seen.trainer.schedule.peak),
    "training.muon_learning_rate": (1e-3, lambda seen: seen.trainer.optimization._settings.muon_learning_rate),
    "training.r_drop": (2.0, lambda seen: seen.trainer.gradient.learner._r_drop),
    "training.token_dropout": (0.2, lambda seen: seen.trainer.gradient.learner._token_dropout),
    "training.betas": ([0.5, 0.6], lambda seen: list(group(seen)["betas"])),
    "training.eps": (1e-6, lambda seen: group(seen)["eps"]),
    "training.weight_decay": (0.1, lambda seen: group(seen)["weight_decay"]),
    "training.schedule": ("cosine", lambda seen: seen.trainer.schedule.kind),
    "training.warmup_steps": (3, lambda seen: seen.trainer.schedule.warmup_steps),
    "training.cooldown": (0.5, lambda seen: seen.trainer.schedule.cooldown),
    "training.label_smoothing": (0.3, lambda seen: seen.trainer.gradient.learner._label_smoothing),
    "training.clip_norm": (0.5, lambda seen: seen.trainer.optimization._settings.clip_norm),
    "training.precision": ("bf16", lambda seen: seen.trainer.gradient.learner._precision),
    "training.ema": (0.5, lambda seen: seen.trainer.settings.ema if seen.trainer.optimization.average else 0.0),
    "training.average_last": (2, lambda seen: seen.averaged),
    "training.report_every": (1, lambda seen: apart([record["step"] for record in records(seen, "train")])),
    "validation.every": (1, lambda seen: apart([record["step"] for record in records(seen, "validation")])),
    "validation.metric": ("wer", lambda seen: "wer" if "wer" in records(seen, "validation")[-1] else None),
    "validation.patience": (9, lambda seen: seen.trainer.bounds._validation.patience),
    "validation.beam": (2, lambda seen: seen.searches[-1].options.beam),
    "validation.max_examples": (3, lambda seen: len(seen.searches[-1].sources)),
    "validation.samples": (2, lambda seen: len(records(seen, "validation")[-1]["samples"])),
    "checkpoints.every": (1, lambda seen: apart([read_state(path).step for path in seen.run.checkpoints()])),
    "checkpoints.keep": (1, lambda seen: len(set(seen.run.checkpoints()) - {seen.run.best_path.resolve()}) or 1),
    # Read by whoever uses the run:
    "data.root": ("../moved", lambda seen: seen.run.config.data.root),
    "data.train.path": ("again.tsv", lambda seen: seen.run.config.data.train.path),
    "data.validation.path": ("validation-again.tsv", lambda seen: seen.run.config.data.validation.path),
}
# Those that mean something when no step is left, too, beside the places of files and what is used later.
AT_THE_END = {
    *("device", "threads", "training.steps", "training.epochs", "training.budget", "training.average_last"),
    "validation.patience",
}
USED_LATER = ("decoding", "evaluation", "data.test")
# What another key decides as well, so that together with others it shows less.
ENTANGLED = {
    *("training.steps", "training.epochs", "training.budget", "training.average_last", "training.cooldown"),
    *("checkpoints.every", "checkpoints.keep", "validation.every", "validation.max_examples", "data.root"),
}
# Values for keys whose present one gives no idea of another.
OTHER = {"version": 2, "run": "elsewhere", "model.preset": "tiny", "tokenizer.source.vocab_size": 30}
OTHER |= {"tokenizer.target.vocab_size": 30, "decoding.shortlist": 5, "training.clip_norm": 0.5}
OTHER |= {
    f"data.{name}.{side}": "train.tsv" for name in ("train", "validation", "test") for side in ("source", "target")
}
OTHER |= {
    f"data.{name}.{side}_column": "1" for name in ("train", "validation", "test") for side in ("source", "target")
}


@pytest.fixture(scope="module")
def finished(make_recipe, corpus, tmp_path_factory) -> Path:
    """A directory with pairs and a run of some steps, which `own` copies."""
    place = tmp_path_factory.mktemp("every-key")
    shutil.copytree(corpus, place / "data")
    for name in ("train", "validation"):
        shutil.copy(place / "data" / f"{name}.tsv", place / "data" / f"{name}-again.tsv")
    shutil.copy(place / "data" / "train.tsv", place / "data" / "again.tsv")
    shutil.copytree(place / "data", place / "moved")
    recipe = make_recipe(
        place / "run",
        data={"root": str(place / "data"), "test": "validation.tsv"},
        model={"tie": "target"},
        tokenizer={"joint": False},
        training={"steps": STEPS},
        validation={"every": 2, "metric": "cer"},
    )
    train(recipe, progress=False)
    return place


def keys() -> list[str]:
    """Every key of reference.yaml that has a value of its own."""
    options = [f"model.{name}" for name in ARCHITECTURES["transformer"].option_names()]
    plain = [key for key in all_keys(Config) if not key.startswith("model.") and not is_section(key)]
    return [*plain, "model.architecture", "model.preset", *options]


def is_section(key: str) -> bool:
    section: Any = Config
    for name in key.split("."):
        section = section_of(section, name) if section is not None else None
    return section is not None


def value_of(config: Config, key: str) -> Any:
    return dict(flat(config.model_dump(mode="json"))).get(key)


def another(run: Run, key: str) -> str:
    """A value that the key may have in a recipe, other than it has; as on the command line."""
    if key in OBEYED:
        return str(OBEYED[key][0]).replace("../moved", str(run.path.parent / "moved"))
    if key in OTHER:
        return str(OTHER[key])
    now = value_of(run.config, key)
    section: Any = Config
    *sections, name = key.split(".")
    for inner in sections:
        section = section_of(section, inner)
    tried: list[Any] = (
        [not now] if isinstance(now, bool) else [now + 1, now / 2] if isinstance(now, int | float) else []
    )
    if name in section.model_fields:
        choices = _choices_of(section, name)
        tried += [[choice] for choice in choices] if isinstance(now, list) else choices
    tried += ["pre", "batch", "gelu", "rotary", "target", "all", "none", "true", "false", 7, 0.5]
    for value in tried:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        try:
            if value_of(load_config(run.config_path, [f"{key}={text}"]), key) != now:
                return text
        except UserError:
            pass
    raise AssertionError(f"{key}: add a value that it may have to OTHER, or to OBEYED where it shows")


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


class Noted(Trainer):
    """Notes what it does in `seen`."""

    seen: Seen

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.seen.trainer = self

    def _step(self, batches: list[Any]) -> None:
        self.seen.groups.append(len(batches))
        self.seen.threads = torch.get_num_threads()
        super()._step(batches)


def gone_on(run: Run, overrides: list[str]) -> Seen:
    """Resume, and what was seen of it."""
    seen = Seen(run=run, groups=[], searches=[], averaged=None)
    search, average = TorchEngine.search, trainer_module.average_run

    def averaging(run: Run, last: int) -> Path:
        seen.averaged = last
        return average(run, last)

    def searching(self: Any, request: Any, **options: Any) -> Any:
        seen.searches.append(request)
        return search(self, request, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noted, "seen", seen, raising=False)
        patch.setattr(trainer_module, "Trainer", Noted)
        patch.setattr(trainer_module, "average_run", averaging)
        patch.setattr(TorchEngine, "search", searching)
        resume(run.path, overrides, progress=False)
    return seen


def own_copy(finished: Path, place: Path) -> Run:
    shutil.copytree(finished / "run", place / "run", symlinks=True)
    for name in ("data", "moved"):
        (place / name).symlink_to(finished / name)
    return Run(place / "run")


@pytest.fixture(scope="module")
def kept(finished, tmp_path_factory) -> Run:
    """A copy that nothing must change."""
    return own_copy(finished, tmp_path_factory.mktemp("kept"))


def is_obeyed(key: str) -> bool:
    one_file = key.endswith((".source", ".target"))  # beside a path they are a mistake
    return key in OBEYED or (key.startswith(USED_LATER) and not one_file)


def means_something_at_the_end(key: str) -> bool:
    return key.startswith(("data.", "decoding.", "evaluation.")) or key in AT_THE_END


def flat_config(run: Run) -> dict[str, Any]:
    return dict(flat(run.config.model_dump(mode="json")))


def refused(run: Run, keys: list[str], overrides: list[str]) -> str:
    """That it is refused, with one of the keys named, and nothing written."""
    before = content(run.path)
    with pytest.raises(UserError) as caught:
        resume(run.path, overrides, progress=False)
    said = str(caught.value)
    names = [*keys, *(key.rpartition(".")[0] for key in keys), *(key.partition(".")[0] for key in keys)]
    assert any(f"{name} " in said or f"{name}: " in said for name in names), said
    assert content(run.path) == before
    return said


@pytest.mark.parametrize("key", [key for key in keys() if not is_obeyed(key)])
def test_what_cannot_be_obeyed_is_refused(kept, key):
    refused(kept, [key], [f"{key}={another(kept, key)}", f"training.steps={MORE}"])


@pytest.mark.parametrize("key", [*filter(is_obeyed, keys())])
def test_what_may_change_is_obeyed(kept, finished, tmp_path, key):
    """And config.yaml says it, and no more. Where no step is left, what only steps obey is refused, too."""
    override = f"{key}={another(kept, key)}"
    if not means_something_at_the_end(key):
        assert "its training is over; raise training.steps" in refused(kept, [key], [override])
    run = own_copy(finished, tmp_path)
    more = [] if key == "training.steps" else [f"training.steps={1000 if key == 'training.epochs' else MORE}"]
    before, seen = flat_config(run), gone_on(run, [override.replace(str(kept.path.parent), str(tmp_path)), *more])
    after = flat_config(run)
    changed = {name for name in [*before, *after] if before.get(name) != after.get(name)} - {"training.steps", "run"}
    assert changed == {key} - {"training.steps"}
    if key in OBEYED:
        assert OBEYED[key][1](seen) == after[key]


@given(chosen=st.lists(st.sampled_from(keys()), min_size=2, max_size=6, unique=True))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_several_keys_at_once(finished, tmp_path_factory, chosen):
    """One that is refused is enough, and then nothing is done."""
    run = own_copy(finished, tmp_path_factory.mktemp("several"))
    before = flat_config(run)
    values = {key: another(run, key) for key in chosen}
    overrides = [f"{key}={value}" for key, value in values.items()]
    more = [] if "training.steps" in chosen else [f"training.steps={MORE}"]
    if not all(map(is_obeyed, chosen)):
        refused(run, [key for key in chosen if not is_obeyed(key)], [*overrides, *more])
        return
    seen = gone_on(run, [*overrides, *more])
    after = flat_config(run)
    assert {name for name in after if before.get(name) != after[name]} - {"training.steps", "run"} == {*chosen} - {
        "training.steps"
    }
    for key in {*chosen} & OBEYED.keys() - ENTANGLED:
        assert OBEYED[key][1](seen) == after[key], key


# Bounds, and what is left of them


@pytest.mark.parametrize(
    ("override", "come_to"),
    [("training.steps=3", "4"), ("training.epochs=1", r"2\.0"), ("training.budget=0.001", r"0\.\d+")],
)
def test_no_bound_can_be_set_to_before_where_training_stands(recipe, override, come_to):
    run = train(recipe(training={"steps": 4, "batch_tokens": 1000}), progress=False)
    key = override.partition("=")[0]
    with pytest.raises(
        UserError, match=rf"^{key} is .* cannot become .*: training has come to {come_to} already; leave it"
    ):
        resume(run.path, [override], progress=False)


def test_the_run_that_is_resumed_is_the_one_that_was_named(recipe, tmp_path):
    run = train(recipe(training={"steps": 2}), progress=False)
    with pytest.raises(
        UserError, match=r"^run is .*, which is to be resumed, and cannot become elsewhere; to move it: mv"
    ):
        resume(run.path, ["run=elsewhere", "training.steps=4"], progress=False)
    moved = tmp_path / "moved"
    run.path.rename(moved)
    resume(moved, [f"run={moved}", "training.steps=4"], progress=False)
    assert Run(moved).config.run == str(moved)


# Data that is read in another way


def test_pairs_that_come_back_are_read_as_before(recipe, tmp_path, corpus):
    """Their encoded form lies in the run; other columns of the same file would be other pairs."""
    shutil.copytree(corpus, tmp_path / "data")
    run = train(recipe(data={"root": str(tmp_path / "data")}, training={"steps": 2}), progress=False)
    with pytest.raises(UserError, match=r"^data\.validation\.source_column is null .* cannot become \"1\""):
        resume(run.path, ["data.validation.source_column=1", "training.steps=4"], progress=False)
    resume(run.path, ["data.validation=null", "training.steps=4"], progress=False)
    other = "data.validation={path: validation.tsv, source_column: 1, target_column: 0}"
    with pytest.raises(
        UserError, match=r"^data\.validation\.source_column: this run was made with null, not with \"1\""
    ):
        resume(run.path, [other, "training.steps=6"], progress=False)
    resume(run.path, ["data.validation=validation.tsv", "training.steps=6"], progress=False)
