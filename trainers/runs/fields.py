"""Fields of settings: frozen dataclasses from which flags, help, limits and config.json are made.

A field says its default, what it does, what it may be, and whether it belongs to the identity of a
run: whether the numbers depend on it, so that a run cannot go on with another value. Whatever is
wrong with a value is told the same way on the command line and in Python.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Set
from typing import Any, Self

SIZE = tuple[int, int]  # (height, width); on the command line 64x96
# No number is larger, unless its field says what may be: more is a slip of the finger, which
# int32 and the squares of float32 do not survive.
LARGEST = 10**9


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    identity: bool = True,
    repeated: bool = False,
) -> Any:
    """Declares a field of `Settings`.

    Args:
        default: its value unless another is given.
        help: what it is, for `--help`.
        least: smallest value.
        most: largest value; by default `LARGEST`.
        above: value that it must exceed.
        choices: all values, of a string, or of each of several.
        identity: whether it belongs to a run's identity. If not, it may change when a run goes on:
            it says where and how, not what is computed.
        repeated: of several texts, whether each has a flag of its own, `--NAME=A --NAME=B`, and may
            contain commas.
    """
    metadata = {"help": help, "least": least, "most": most, "above": above}
    metadata |= {"choices": choices, "identity": identity, "repeated": repeated}
    return dataclasses.field(default=default, metadata=metadata)


def fraction(default: float | None, help: str) -> Any:
    """Declares a number from 0 to 1."""
    return setting(default, help, least=0, most=1)


def free(default: Any, help: str, **limits: Any) -> Any:
    """Declares a setting that does not belong to a run's identity."""
    return setting(default, help, identity=False, **limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of settings, whose fields are declared by `setting`.

    Raises:
        ValueError: if a value is out of range.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds = kinds_of(field)
            if not any(_is_a(value, kind) for kind in kinds):
                wanted = field.type if len(kinds) > 1 else field.type.__name__
                raise ValueError(
                    f"--{field.name} must be of type {wanted}. Received: --{field.name}={value!r}"
                )
            _check(field.name, value, **field.metadata)
            if value == () and field.default:
                raise ValueError(f"--{field.name} must not be empty. Received: --{field.name}=")
            if SIZE in kinds and isinstance(value, tuple) and value[0] == value[1]:
                self._resolve(**{field.name: value[0]})  # 64x64 is 64, in config.json as well

    @classmethod
    def of_flags(cls, values: dict[str, Any], typed: Set[str]) -> Self:
        """Returns the settings of a command line, of which `typed` are not from a file of flags.

        Raises:
            ValueError: as the class itself does.
        """
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """Returns what determines the run, as JSON values by name, sorted."""
        fields = [field for field in dataclasses.fields(self) if field.metadata["identity"]]
        values = {field.name: getattr(self, field.name) for field in fields}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in sorted(values.items())
        }

    @classmethod
    def of_identity(cls, identity: dict[str, Any], **others: Any) -> Self:
        """Returns the settings of an earlier run.

        Args:
            identity: what `identity` returned. Further names are passed over; a setting that did
                not exist yet has its default, which must therefore be what runs did before.
            **others: settings that do not belong to it.

        Raises:
            ValueError: if a setting is out of range.
        """
        fields = [field for field in dataclasses.fields(cls) if field.metadata["identity"]]
        known = {field.name: identity.get(field.name, field.default) for field in fields}
        known = {n: tuple(v) if isinstance(v, list) else v for n, v in known.items()}
        return cls(**known, **others)

    def as_flags(self, without: tuple[str, ...] = (), **changed: Any) -> list[str]:
        """Returns the flags that give these settings, without those that are as by default.

        Args:
            without: names to leave out.
            **changed: settings to give another value.
        """
        flags = []
        for field in dataclasses.fields(self):
            value = changed.get(field.name, getattr(self, field.name))
            if field.name in without or value == field.default:
                continue
            if isinstance(value, bool):
                flags.append(f"--{'' if value else 'no'}{field.name}")
            elif field.metadata["repeated"]:
                flags += [f"--{field.name}={text}" for text in value]
            else:
                flags.append(f"--{field.name}={as_text(field, value)}")
        return flags

    def _resolve(self, **values):
        """Replaces defaults that depend on other settings; for `__post_init__`."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def kinds_of(field: dataclasses.Field) -> tuple[Any, ...]:
    """Returns the types that a field may have: X, or of X | Y | None all of them."""
    if isinstance(field.type, types.UnionType):
        return typing.get_args(field.type)
    return (field.type,)


def as_text(field: dataclasses.Field, value: Any) -> str:
    """Returns a field's value as its flag takes it: of several 7,14, of a size 64x96."""
    if not isinstance(value, tuple):
        return str(value)
    return ("x" if SIZE in kinds_of(field) else ",").join(map(str, value))


def recorded_as_text(kind: type, name: str, value: Any) -> str:
    """Does the same with a value of settings of class `kind` that JSON holds, tuples as lists."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    several = isinstance(value, (list, tuple)) and name in fields
    return as_text(fields[name], tuple(value)) if several else str(value)


def _is_a(value, kind):
    """Tells whether a value is of a type; an int is a float, too, and a bool is no number."""
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind == SIZE:
        return isinstance(value, tuple) and len(value) == 2 and all(_is_a(v, int) for v in value)
    kind = typing.get_origin(kind) or kind
    return isinstance(kind, type) and isinstance(value, kind)


def _check(name, value, least, most, above, choices, **_):
    rules = []
    if value is None:
        return
    if choices and isinstance(value, tuple):
        rules = [(set(value) <= set(choices), f"among {', '.join(choices)}")]
        value = ",".join(value)
    elif choices:
        rules = [(value in choices, f"one of {', '.join(choices)}")]
    elif isinstance(value, str):
        rules = [(value.strip("\0 ") != "" and "\0" not in value, "a text that is not empty")]
    elif isinstance(value, tuple):
        for one in value:
            _check(name, one, least, most, above, ())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        most = LARGEST if most is None else most
        rules = [
            (isinstance(value, int) or math.isfinite(value), "finite"),
            (above is None or value > above, f"a number > {above}"),
            (least is None or value >= least, f"at least {least}"),
            (value <= most, f"at most {most}"),
        ]
    for holds, rule in rules:
        if not holds:
            raise ValueError(f"--{name} must be {rule}. Received: --{name}={value}")
