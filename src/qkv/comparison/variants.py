"""What is varied: from `--vary key=a,b` to one checked configuration per variant."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.config.loading import load_config
from qkv.config.schema import Config
from qkv.errors import UserError

_OPENING, _CLOSING = "[{", "]}"
_LONGEST_VALUE = 40


@dataclass(frozen=True)
class Variant:
    """A recipe with one value chosen for every key that is varied.

    Attributes:
        name: short and safe as a file's name, like `architecture=lstm,num_heads=2`; the run's directory.
        values: key → value, both as they are written on the command line.
        config: checked; its `run` lies in the comparison's directory.
    """

    name: str
    values: dict[str, str]
    config: Config


def read_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Keys and values of `key=a,b` texts.

    Raises:
        UserError: if one is not written so, or a key stands there twice.
    """
    vary: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key:
            raise UserError(f"--vary {text!r}: write KEY=VALUE,VALUE, like model.architecture=lstm,transformer")
        if key in vary:
            raise UserError(f"--vary {key} stands there twice; write all its values after one --vary")
        vary[key] = split_values(values)
    return vary


def split_values(text: str) -> list[str]:
    """The values between commas, of which those within brackets, braces or quotes do not count.

    >>> split_values("[a, b],'c,d',e")
    ['[a, b]', "'c,d'", 'e']
    """
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def join_values(values: Sequence[str]) -> str:
    """What `split_values` makes these values from."""
    return ",".join(value if split_values(value) == [value] else json.dumps(value) for value in values)


def as_text(vary: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Values as a command line would have them: text stays text, anything else is written as YAML reads it."""
    return {
        key: [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
        for key, values in vary.items()
    }


def make_variants(
    recipe: str | Path | Mapping[str, Any] | Config,
    vary: Mapping[str, Sequence[str]],
    overrides: Sequence[str],
    output: Path,
) -> list[Variant]:
    """Every combination of the values, in the order in which they are given.

    Args:
        recipe: what is varied.
        vary: key → values, as text.
        overrides: "key=value" changes that hold for all.
        output: the directory that the runs go to.

    Raises:
        UserError: if nothing is varied, a value stands there twice, or a key or value is unknown.
    """
    if not vary:
        raise UserError("nothing is varied: say --vary KEY=VALUE,VALUE, like model.architecture=lstm,transformer")
    for key, values in vary.items():
        _check(key, values)
    variants = []
    for combination in itertools.product(*vary.values()):
        chosen = dict(zip(vary, combination, strict=True))
        name = name_of(chosen)
        config = load_config(recipe, [*overrides, *(f"{key}={value}" for key, value in chosen.items())])
        variants.append(Variant(name, chosen, config.model_copy(update={"run": str(output / name)})))
    return variants


def _check(key: str, values: Sequence[str]) -> None:
    if key == "run":
        raise UserError("run cannot be varied: every variant's run is a directory below --output")
    if not values or "" in values:
        raise UserError(f"--vary {key}: a value is missing; write {key}=VALUE,VALUE (null for no value)")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise UserError(f"--vary {key}: {twice[0]} stands there twice")


def name_of(values: Mapping[str, str]) -> str:
    """A variant's name: the last part of each key, unless two keys share it, and its value.

    Where a value holds what a file's name had better not, that is left out, and a few digits of the value's hash keep
    the name apart from others.
    """
    last_parts = [key.rpartition(".")[2] for key in values]
    keys = last_parts if len(set(last_parts)) == len(last_parts) else list(values)
    return ",".join(f"{key}={_safe(value)}" for key, value in zip(keys, values.values(), strict=True))


def _safe(value: str) -> str:
    safe = re.sub(r"[^\w.+-]+", "-", value).strip("-")[:_LONGEST_VALUE]
    if safe == value:
        return value
    return f"{safe}-{hashlib.sha256(value.encode('utf-8')).hexdigest()[:6]}"
