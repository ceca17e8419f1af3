"""What does text that anybody may have written hold? JSON, YAML, typed values; for whatever is wrong a ValueError.

The libraries raise half a dozen unrelated errors for hostile text (`RecursionError` for 100,000 brackets, a bare
`KeyError` or `AttributeError` for a wrong YAML tag). Here they are one.
"""

from __future__ import annotations

import json
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache, reduce
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml

from vtrap_data.errors import cut

T = TypeVar("T")
Read = Callable[[Any], Any]


def parse_json(text: str | bytes, *, nan: bool = True) -> Any:
    """A JSON value.

    Args:
        text: Of one value.
        nan: Take NaN and Infinity, which are no JSON, although Python writes them.

    Raises:
        ValueError: It is none, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=None if nan else _no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def finite(value: Any) -> Any:
    """The value with every number that JSON cannot hold replaced by null."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def parse_yaml(text: str, *, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """A YAML value of plain types.

    Args:
        text: Of one document.
        loader: A safe one.

    Raises:
        ValueError: It is none, on one line.
    """
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # not YAMLError only: KeyError for `!!bool x`, AttributeError for `!!timestamp x`
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def typed(kind: type[T], data: Any, *, known_only: bool = False) -> T:
    """A dataclass from its JSON form: every field has the type that is written down for it.

    Lists become tuples, whole numbers are taken where a float is due, nothing else is converted. Floats are finite.

    Args:
        kind: Whose fields are of str, int, float, bool, None, Literal, tuples, mappings and such classes.
        data: The JSON object.
        known_only: Pass over unknown fields, so that older versions read what newer ones add.

    Raises:
        ValueError: A field is missing, unknown or of another type; the message names it.
    """
    read: Any = _reader
    value: T = read(kind, known_only)(data)
    return value


def parse_exact(kind: type[T], text: bytes) -> T | None:
    """A dataclass from the bytes of its JSON form, if that is exact: every field there, each of its very type.

    What this gives is what `typed(kind, parse_json(text))` gives, for a third of the time. None says nothing but that
    they have to decide: whether it is right all the same (a default left out, 1 for 1.0), and if not, what is wrong.

    Args:
        kind: Whose fields are of str, int, float, bool, None, Literal, tuples and such classes.
        text: In UTF-8.
    """
    decoders: Any = _decoders
    exact, plain = decoders(kind)
    try:
        exact.decode(text)
        value: T = plain.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return value


@cache
def _decoders(kind: Any) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """One that refuses what is not exact; and one that makes the dataclass, but skips fields that it does not know."""
    return msgspec.json.Decoder(_exact(kind)), msgspec.json.Decoder(kind)


_NO_INT = Annotated[int, msgspec.Meta(gt=0, lt=0)] | float
"""To msgspec, float means whole numbers, too, which it converts; here no whole number fits."""


@cache
def _exact(kind: Any) -> Any:
    """The same type, with structs for dataclasses: without defaults, and with no other fields."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        hints = typing.get_type_hints(kind)
        members = [(field.name, _exact(hints[field.name])) for field in fields(kind)]
        return msgspec.defstruct(kind.__name__, members, forbid_unknown_fields=True, gc=False)
    if origin is tuple:
        return tuple[_exact(arguments[0]), ...]  # type: ignore[misc]
    if origin in (typing.Union, types.UnionType):
        return reduce(operator.or_, map(_exact, arguments))
    return _NO_INT if kind is float else kind


@cache
def _reader(kind: Any, known_only: bool) -> Read:
    """What turns a JSON value into one of that type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        return _object_reader(kind, known_only)
    if origin is Literal:
        return _literal_reader(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union_reader([_reader(one, known_only) for one in arguments], null=types.NoneType in arguments)
    if origin is tuple:
        return _list_reader(_reader(arguments[0], known_only), plain=arguments[0])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(_reader(arguments[1], known_only))
    if kind is float:
        return _float
    return _plain_reader(kind)


def _plain_reader(kind: Any) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:  # True is an int to isinstance
            raise ValueError(f"is {_shown(value)}, not {'null' if kind is types.NoneType else kind.__name__}")
        return value

    return read


def _literal_reader(allowed: Sequence[Any]) -> Read:
    def read(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"is {_shown(value)}, not {' or '.join(map(repr, allowed))}")
        return value

    return read


def _float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) < 1 << 53:
        return value  # as it is: what is written again is what was read
    raise ValueError(f"is {_shown(value)}, not a number")


def _finite(values: Sequence[float]) -> bool:
    return math.isfinite(sum(values)) or all(map(math.isfinite, values))  # a sum is quicker, and may overflow


def _list_reader(read: Read, *, plain: Any) -> Read:
    def read_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"is {_shown(value)}, not a list")
        if plain in (int, float, str) and {*map(type, value)} <= {plain} and (plain is not float or _finite(value)):
            return tuple(value)  # as nearly all are: a corpus is read thousands of times a second
        return tuple([read(one) for one in value])

    return read_list


def _mapping_reader(read: Read) -> Read:
    def read_mapping(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"is {_shown(value)}, not an object")
        return _fields(value, dict.fromkeys(value, read))

    return read_mapping


def _union_reader(readers: Sequence[Read], *, null: bool) -> Read:
    def read_union(value: Any) -> Any:
        if value is None and null:
            return None
        problem: ValueError | None = None
        for read in readers:
            try:
                return read(value)
            except ValueError as error:
                problem = problem or error
        raise problem or ValueError("is of no type")

    return read_union


def _object_reader(kind: Any, known_only: bool) -> Read:
    hints = typing.get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name], known_only) for field in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}

    def read_object(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"is {_shown(value)}, not an object")
        if known_only:
            value = {key: one for key, one in value.items() if key in readers}
        elif unknown := value.keys() - readers.keys():
            raise ValueError(f"has the unknown key {_shown(min(unknown))}")
        if missing := needed - value.keys():
            raise ValueError(f"lacks {min(missing)!r}")
        return kind(**_fields(value, readers))

    return read_object


def _fields(value: Mapping[str, Any], readers: Mapping[str, Read]) -> dict[str, Any]:
    found = {}
    name = ""
    try:
        for name, one in value.items():
            found[name] = readers[name](one)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    return found


def _shown(value: Any) -> str:
    return cut(repr(value))
