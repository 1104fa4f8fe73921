"""A recipe read, checked and resolved, with errors that name the key."""

import difflib
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from qkv.config.recipe import read_recipe, read_value, set_key
from qkv.config.schema import Config, ModelConfig
from qkv.errors import UserError


def load_config(recipe: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `key.key=value` overrides.

    Raises:
        UserError: if the file cannot be read, or a key is unknown, or a value has the wrong type or range.
    """
    data: dict[Any, Any]
    if isinstance(recipe, Config):
        data, origin = recipe.model_dump(), "the configuration"
    elif isinstance(recipe, Mapping):
        data, origin = dict(recipe), "the configuration"
    else:
        data, origin = read_recipe(Path(recipe)), str(recipe)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"{override!r}: an override is written key=value, like training.steps=1000")
        key = _full_key(key)
        set_key(data, key, text if key in _TEXT_KEYS else read_value(text))
    return _validate(data, origin)


_TEXT_KEYS = ("run", "device", "data.root")
"""Their values are taken from the command line as they are: run=2024 is a directory."""


def _validate(data: dict[Any, Any], origin: str) -> Config:
    try:
        config = Config.model_validate(data)
        config.tokenizer.settings()
        options = model_options(config.model, vocab_size=5, target_vocab_size=5)  # the real sizes come later
    except ValidationError as error:
        raise UserError(f"{origin}: {_explain(error.errors()[0])}") from None
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    if getattr(options, "tie", None) == "all" and not config.tokenizer.joint:
        raise UserError(
            f"{origin}: model.tie is all, which needs one vocabulary for both sides: say model.tie=target (or none), "
            "or tokenizer.joint=true"
        )
    return config


def model_options(model: ModelConfig, *, vocab_size: int, target_vocab_size: int) -> Any:
    """The architecture's own configuration object: its defaults, then the preset, then what the recipe says.

    Raises:
        UserError: naming the key that is unknown or has an impossible value.
    """
    from qkv.nn.architectures import ARCHITECTURES

    architecture = ARCHITECTURES[_choice("model.architecture", model.architecture, ARCHITECTURES)]
    presets = architecture.presets
    preset = presets[_choice("model.preset", model.preset, presets)] if model.preset is not None else {}
    foreign = foreign_options(model)
    said = {name: value for name, value in (model.model_extra or {}).items() if name not in foreign}
    for name in said:
        if name not in architecture.option_names():
            raise UserError(_unknown_key(["model", name], [*ModelConfig.model_fields, *architecture.option_names()]))
    values = {"vocab_size": vocab_size, "target_vocab_size": target_vocab_size} | dict(preset) | said
    try:
        return TypeAdapter(architecture.config).validate_python(values | dict(architecture.implied))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(_explain(first | {"loc": ("model", *first["loc"])})) from None


def foreign_options(model: ModelConfig) -> list[str]:
    """What the recipe says that only other architectures know: it is left out, so that any recipe can change family."""
    from qkv.nn.architectures import ARCHITECTURES

    own = ARCHITECTURES[model.architecture].option_names()
    known = {name for architecture in ARCHITECTURES.values() for name in architecture.option_names()}
    return [name for name in model.model_extra or {} if name in known and name not in own]


def spelled_out(config: Config, options: Any) -> Config:
    """The configuration with every option of the model written down, except the vocabulary sizes."""
    from qkv.nn.architectures import ARCHITECTURES

    names = ARCHITECTURES[config.model.architecture].option_names()
    said = {name: getattr(options, name) for name in names}
    model = ModelConfig(architecture=config.model.architecture, preset=config.model.preset, **said)
    return config.model_copy(update={"model": model})


# Keys


def all_keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key of a section, sections within it and the options of all architectures included."""
    for name in section.model_fields:
        yield prefix + name
        inner = section_of(section, name)
        if inner is not None:
            yield from all_keys(inner, f"{prefix}{name}.")
    if section is ModelConfig:
        from qkv.nn.architectures import ARCHITECTURES

        options = [name for architecture in ARCHITECTURES.values() for name in architecture.option_names()]
        yield from (prefix + name for name in dict.fromkeys(options))


def section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of a section within a section, or None if `name` is a plain value or no key at all."""
    waiting = [section.model_fields[name].annotation] if name in section.model_fields else []
    for candidate in waiting:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        waiting += get_args(candidate)
    return None


def _full_key(key: str) -> str:
    """`budget` for `training.budget`: a bare key may stand for the one section that has it."""
    homes = [known for known in all_keys() if known.count(".") == 1 and known.endswith(f".{key}")]
    return homes[0] if len(homes) == 1 and key not in Config.model_fields else key


# Messages

_WANTED = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, like [a, b]",
    "tuple": "a list, like [a, b]",
    "model": "a mapping of keys to values",
    "missing": "given",
}
"""In plain words, what pydantic's errors of these types (int_type, int_parsing, …) ask for."""


def _explain(error: ErrorDetails) -> str:
    """An error of pydantic in one line that names the key."""
    where = [str(part) for part in error["loc"]]
    kind = error["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        return _unknown_key(where, _keys_beside(where))
    if kind == "value_error":
        return f"{'.'.join(where)}: {error['msg'].removeprefix('Value error, ')}"
    wanted = _WANTED.get(kind.partition("_")[0])
    message = f"must be {wanted}" if wanted else error["msg"].replace("Input should be", "must be")
    return f"{'.'.join(where)}: {message[0].lower()}{message[1:]}, got {reprlib.repr(error['input'])}"


def _unknown_key(where: Sequence[str], beside: Sequence[str]) -> str:
    key = ".".join(where)
    likely = [known for known in all_keys() if known.rpartition(".")[2] == where[-1] and known != key]
    if not likely:
        nearest = difflib.get_close_matches(where[-1], beside, n=1, cutoff=0.5)
        likely = [".".join([*where[:-1], name]) for name in nearest]
    hint = f"did you mean {' or '.join(likely)}?" if likely else f"known here: {', '.join(beside)}"
    return f"unknown key {key}; {hint}"


def _keys_beside(where: Sequence[str]) -> list[str]:
    """The keys of the section in which an unknown one was found."""
    section: type[BaseModel] = Config
    for name in where[:-1]:
        section = section_of(section, name) or section
    return [key for key in all_keys(section) if "." not in key]


def _choice(key: str, value: str, known: Collection[str]) -> str:
    if value not in known:
        nearest = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are: {', '.join(known)}"
        raise UserError(f"unknown {key} {value!r}; {hint}")
    return value
