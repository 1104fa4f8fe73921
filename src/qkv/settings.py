"""Settings, checked as they are made: what a recipe's section or a function's options may say.

pydantic does the checking. What it finds becomes one line that names the key and says what to do.
"""

import os
import reprlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, field_validator
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from qkv.errors import UserError
from qkv.registry import did_you_mean

SectionType = TypeVar("SectionType", bound="Section")


class Section(BaseModel):
    """Settings that belong together; frozen, and unknown keys are errors.

    Raises:
        UserError: in one line, if a value is impossible.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def __init__(self, **said: Any) -> None:
        with told_in_one_line(type(self)):
            super().__init__(**said)

    # So pydantic makes sections within sections without it: then the one line names the whole key.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def of(cls: type[SectionType], said: Any) -> SectionType:
        """From a mapping, or what else may stand for one; a section that is made already is returned as it is."""
        with told_in_one_line(cls):
            return cls.model_validate(said)

    def changed(self: SectionType, **values: Any) -> SectionType:
        """A copy with some values replaced, checked like any other."""
        return type(self)(**dict(self) | values)

    @classmethod
    def key_names(cls) -> list[str]:
        """What may be said in this section."""
        return list(cls.model_fields)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: Any) -> Any:
        """A Path is its text; and true is not the number 1, as pydantic would have it."""
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("must not be true or false")
        return value


@dataclass(frozen=True, eq=False)
class OneOf:
    """In an annotation of text: it is one of these names, a registry's say.

    Attributes:
        what: what is named, for messages: `metric`.
        known: the names; looked up when a value is checked, so that nothing is imported before.
        also: names that are allowed beside.
    """

    what: str
    known: Collection[str]
    also: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        yield from (*self.also, *self.known)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in self.also and name not in self.known:
            raise ValueError(f"unknown {self.what} {name!r}; {did_you_mean(name, self)}")
        return name


# Keys


def section_of(section: type[BaseModel], name: str) -> type[Section] | None:
    """The class of a section within a section, or None if `name` is a plain value or no key at all."""
    waiting = [section.model_fields[name].annotation] if name in section.model_fields else []
    for candidate in waiting:
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
        waiting += get_args(candidate)
    return None


def all_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key of a section, those of the sections within it included."""
    for name in section.key_names():
        yield prefix + name
        inner = section_of(section, name)
        if inner is not None:
            yield from all_keys(inner, f"{prefix}{name}.")


def unknown_key(where: Sequence[str], root: type[Section], beside: Sequence[str] = ()) -> str:
    """What is said of a key that `root` does not have: where it belongs, what was probably meant, or what there is.

    Args:
        where: the names that lead to it, its own last.
        root: a section.
        beside: the keys that there are, if not all that the section around it can have.
    """
    likely = [known for known in all_keys(root) if known.rpartition(".")[2] == where[-1] and known != ".".join(where)]
    section = root
    for name in where[:-1]:
        section = section_of(section, name) or section
    prefix = "".join(f"{name}." for name in where[:-1])
    hint = did_you_mean(where[-1], beside or section.key_names(), prefix=prefix)
    return f"unknown key {'.'.join(where)}; " + (f"did you mean {' or '.join(likely)}?" if likely else hint)


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


@contextmanager
def told_in_one_line(root: type[Section], prefix: Iterable[str] = ()) -> Iterator[None]:
    """Turn what pydantic finds in a `root`, of which it checks what lies at `prefix`, into a `UserError`."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = [*prefix, *map(str, first["loc"])]
        raise UserError(_explain(first, where, root)) from None


def _explain(error: ErrorDetails, where: Sequence[str], root: type[Section]) -> str:
    kind = error["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        return unknown_key(where, root)
    if kind == "value_error":
        message = error["msg"].removeprefix("Value error, ")
    else:
        wanted = _WANTED.get(kind.partition("_")[0])
        message = f"must be {wanted}" if wanted else error["msg"].replace("Input should be", "must be")
        message = f"{message[0].lower()}{message[1:]}, got {reprlib.repr(error['input'])}"
    return ": ".join(part for part in (".".join(where), message) if part)
