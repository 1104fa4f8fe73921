"""recipes/reference.yaml, written from the schema: `python -m qkv.config.reference > recipes/reference.yaml`."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from qkv.config.schema import Config, ModelConfig
from qkv.nn.architectures import ARCHITECTURES, Architecture
from qkv.settings import OneOf, Section, section_of

_HEAD = """\
# Every key that a recipe may have: what it means, its default and, where they are few, its choices.
# A recipe needs only what differs, so copy single keys. On the command line: qkv train RECIPE.yaml training.budget=15m
# Written by `python -m qkv.config.reference`; change the schema, not this file.
"""


def render() -> str:
    """The reference: a valid recipe of defaults, with every key's meaning above it."""
    return "\n".join([_HEAD, *_section(Config(), shown={})]) + "\n"


def attributes(documented: type[Any]) -> dict[str, str]:
    """The section "Attributes:" of the docstrings of a class and of those that it extends, as name → meaning."""
    meanings: dict[str, str] = {}
    for part in documented.__mro__:
        text = inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", text, flags=re.MULTILINE)
        meanings = {name: " ".join(meaning.split()) for name, meaning in entries} | meanings
    return meanings


def _section(section: Section, shown: dict[type[Section], str], path: str = "") -> Iterator[str]:
    """The lines of one section, indented by its depth; `shown` says where a kind of section was spelled out."""
    indent = "  " * path.count(".")
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        inner = section_of(type(section), name)
        if inner is not None and values[name] is not None:
            yield from ("", *_comment((inspect.getdoc(inner) or "").partition("\n\n")[0], indent), f"{indent}{name}:")
            yield from _section(getattr(section, name), shown, f"{path}{name}.")
            continue
        meaning = _with_choices(field.description or "", _choices_of(type(section), name))
        if inner in shown:
            meaning += f"; the same keys as {shown[inner]}"
        yield from _entry(name, meaning, values[name], indent)
        if inner is not None and inner not in shown:
            shown[inner] = path + name
            example = [f"{indent}{name}:", *_section(inner.model_construct(), shown, f"{path}{name}.")]
            yield from (f"{indent}# {line.removeprefix(indent)}" for line in example)
    if isinstance(section, ModelConfig):
        own = ARCHITECTURES[section.architecture]
        yield from (*_presets(own, indent), *_options(own, indent), *_other_options(section.architecture, indent))


def _options(architecture: Architecture, indent: str) -> Iterator[str]:
    meanings, types = attributes(architecture.config), get_type_hints(architecture.config)
    for option in fields(architecture.config):
        if option.name in architecture.option_names():
            meaning = _with_choices(meanings.get(option.name, "").rstrip("."), _choices(types[option.name]))
            yield from _entry(option.name, meaning, option.default, indent)


def _presets(architecture: Architecture, indent: str) -> Iterator[str]:
    for name, preset in architecture.presets.items():
        settings = ", ".join(f"{option} {value}" for option, value in preset.items())
        yield from _comment(f"{name}: {settings}", indent)


def _other_options(spelled_out: str, indent: str) -> Iterator[str]:
    """The options of all architectures but one, commented out; those that share them together."""
    families: dict[tuple[type[Any], tuple[str, ...]], list[str]] = {}
    for name in ARCHITECTURES.built_in:
        options = tuple(ARCHITECTURES[name].option_names())
        families.setdefault((ARCHITECTURES[name].config, options), []).append(name)
    for names in families.values():
        if spelled_out in names:
            continue
        yield from _comment(f"With architecture {' or '.join(names)}, these are the options instead:", indent)
        lines = [line for name in names for line in (f"# presets of {name}:", *_presets(ARCHITECTURES[name], ""))]
        yield from (f"{indent}# {line}" for line in [*lines, *_options(ARCHITECTURES[names[0]], "")])


def _choices_of(section: type[Section], name: str) -> list[str]:
    if section is ModelConfig and name == "preset":
        return list(ARCHITECTURES[ModelConfig().architecture].presets)
    field = section.model_fields[name]
    return [choice for part in (field.annotation, *field.metadata) for choice in _choices(part)]


def _choices(annotation: Any) -> list[str]:
    """The choices in an annotation, also within a list or beside None."""
    if isinstance(annotation, OneOf):
        return list(annotation)
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]


def _with_choices(meaning: str, choices: list[str]) -> str:
    if all(re.search(rf"\b{choice}\b", meaning) for choice in choices):
        return meaning
    return f"{meaning}; choices: {', '.join(choices)}"


def _entry(name: str, meaning: str, value: Any, indent: str) -> Iterator[str]:
    yield from _comment(meaning, indent)
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    yield f"{indent}{name}: {text}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


if __name__ == "__main__":
    print(render(), end="")
