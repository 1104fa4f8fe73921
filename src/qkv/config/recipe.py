"""The text of a recipe: YAML, and `key.key=value` changes to it. What the keys mean is for `config` to say."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from qkv.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML in which 5e-3 is a number, as in YAML 1.2, and a key that stands twice in a mapping is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ComposerError(None, None, f"the key {key.value} stands there twice", key.start_mark)
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_recipe(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML file holds, its keys whatever YAML knows; `UserError` if it cannot be read or is none."""
    if path.is_dir():
        raise UserError(f"{path}: a directory, not a recipe; to go on with a run: qkv train --resume {path}")
    try:
        content = path.read_bytes()
        data = yaml.load(content.decode("utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; convert it to UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(_explain(path, error)) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, not a {type(data).__name__}")
    return data


def read_value(text: str) -> Any:
    """A value of the command line, read as YAML would; text that is no YAML stands for itself."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def set_key(data: dict[Any, Any], key: str, value: Any) -> None:
    """Set `section.key` in nested mappings. Inner ones are copied first: they may be the caller's own."""
    *sections, last = key.split(".")
    for section in sections:
        inner = data.get(section)
        data[section] = dict(inner) if isinstance(inner, Mapping) else {}
        data = data[section]
    data[last] = value


def _explain(path: Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: not valid YAML: {error.problem}"
    return f"{path}: not valid YAML: {' '.join(str(error).split())}"
