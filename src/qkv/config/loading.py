"""A recipe read, checked and resolved, with errors that name the key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from qkv.config.recipe import read_recipe, read_value, set_key
from qkv.config.schema import Config, ModelConfig
from qkv.errors import UserError
from qkv.nn.architectures import ARCHITECTURES
from qkv.registry import did_you_mean
from qkv.settings import all_keys, told_in_one_line, unknown_key


def load_config(recipe: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `key.key=value` overrides; a `UserError` names the file or the key that is at fault."""
    if isinstance(recipe, str | Path):
        data, origin = read_recipe(Path(recipe)), str(recipe)
    else:
        data, origin = dict(recipe.model_dump() if isinstance(recipe, Config) else recipe), "the configuration"
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"{override!r}: an override is written key=value, like training.steps=1000")
        key = _full_key(key, data)
        set_key(data, key, text if key in _TEXT_KEYS else read_value(text))
    try:
        config = Config.of(data)
        options = model_options(config.model, vocab_size=5, target_vocab_size=5)  # the real sizes come later
        if getattr(options, "tie", None) == "all" and not config.tokenizer.joint:
            raise UserError(
                "model.tie is all, which needs one vocabulary for both sides: say model.tie=target (or none), "
                "or tokenizer.joint=true"
            )
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    return config


_TEXT_KEYS = ("run", "device", "data.root")
"""Their values are taken from the command line as they are: run=2024 is a directory."""


def model_options(model: ModelConfig, *, vocab_size: int, target_vocab_size: int) -> Any:
    """The architecture's own configuration: defaults, then preset, then recipe; `UserError` names the key at fault."""
    architecture = ARCHITECTURES[model.architecture]
    if model.preset is not None and model.preset not in architecture.presets:
        hint = did_you_mean(model.preset, architecture.presets)
        raise UserError(f"model.preset: unknown preset {model.preset!r}; {hint}")
    preset = architecture.presets.get(model.preset or "", {})
    foreign = foreign_options(model)
    said = {name: value for name, value in (model.model_extra or {}).items() if name not in foreign}
    known = [*ModelConfig.model_fields, *architecture.option_names()]
    for name in said:
        if name not in known:
            raise UserError(unknown_key(["model", name], Config, known))
    values = {"vocab_size": vocab_size, "target_vocab_size": target_vocab_size} | dict(preset) | said
    with told_in_one_line(Config, prefix=["model"]):
        return TypeAdapter(architecture.config).validate_python(values | dict(architecture.implied))


def foreign_options(model: ModelConfig) -> list[str]:
    """What the recipe says that only other architectures know: it is left out, so that any recipe can change family."""
    own, known = ARCHITECTURES[model.architecture].option_names(), ModelConfig.key_names()
    return [name for name in model.model_extra or {} if name in known and name not in own]


def spelled_out(config: Config, options: Any) -> Config:
    """The configuration with every option of the model written down, except the vocabulary sizes."""
    names = ARCHITECTURES[config.model.architecture].option_names()
    said = {name: getattr(options, name) for name in names}
    model = ModelConfig(architecture=config.model.architecture, preset=config.model.preset, **said)
    return config.changed(model=model)


def _full_key(key: str, data: Mapping[Any, Any]) -> str:
    """`budget` for `training.budget`: a bare key may stand for the one section that has it."""
    if "." in key or key in Config.model_fields:
        return key
    homes = {known for known in all_keys(Config) if known.count(".") == 1 and known.endswith(f".{key}")}
    model = data.get("model")
    architecture = str(model.get("architecture")) if isinstance(model, Mapping) else ""
    if architecture in ARCHITECTURES and key in ARCHITECTURES[architecture].option_names():
        homes.add(f"model.{key}")
    return homes.pop() if len(homes) == 1 else key
