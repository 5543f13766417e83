"""Settings in a YAML file, and errors that name file, line and field."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from ..core.errors import ConfigurationError, FileFormatError, MissingDependencyError
from ..core.files import MAX_DEPTH, MAX_DIGITS, read_at_most
from ..core.text import shown

try:
    import yaml
    from pydantic import BaseModel, ValidationError
except ImportError as error:
    raise MissingDependencyError("Reading settings", error.name or "pydantic", "train") from error

MAX_BYTES = 2**15
"""Largest settings file: read in half a second, and enough for the rows of a thousand atoms."""

MAX_MESSAGE = 400
"""Characters of a file that are quoted in an error."""

Settings = TypeVar("Settings", bound=BaseModel)

CORE_SCHEMA = {
    "null": ("~|null|Null|NULL|", "~nN"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""What is not a string without quotation marks, and how it may begin: YAML 1.2.2, section 10.3.2."""


class _RefusedError(yaml.MarkedYAMLError):
    """What is YAML, but not read here."""


class _Loader(yaml.SafeLoader):
    """Plain values by the rules of YAML 1.2, where 0100 is a hundred, and 1:30 and yes are strings.

    No aliases, which can make gigabytes of a few lines, no tags, and no numbers beyond 64 bits.
    """

    depth = 0

    def get_single_node(self) -> yaml.Node | None:
        self.get_event()  # type: ignore[no-untyped-call]
        start = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(start, "tags", None) or getattr(start, "version", None) not in (None, (1, 2)):
            raise _RefusedError(problem="it asks for tags, or for another YAML than 1.2", problem_mark=start.start_mark)
        if isinstance(start, yaml.StreamEndEvent):
            return None
        node: yaml.Node | None = self.compose_document()
        following = self.peek_event()  # type: ignore[no-untyped-call]
        if not isinstance(following, yaml.StreamEndEvent):
            raise _RefusedError(problem="a second document begins", problem_mark=following.start_mark)
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _RefusedError(
                problem="anchors and aliases are not used here; write it out", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise _RefusedError(problem="tags are not used here; write the value alone", problem_mark=event.start_mark)
        if self.depth == MAX_DEPTH:
            raise _RefusedError(
                problem=f"it is nested more than {MAX_DEPTH} levels deep", problem_mark=event.start_mark
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise _RefusedError(problem=f"a whole number has {len(node.value)} digits", problem_mark=node.start_mark)
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value[2:] if base != 10 else node.value, base)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        # Python writes infinity and nan without the point
        return float(re.sub(r"\.(?=[in])", "", node.value.lower()))


class _Dumper(yaml.SafeDumper):
    """Quotes what is not a string by the rules of YAML 1.1, PyYAML's own, or of 1.2: all programs read the same."""


# PyYAML's own are those of YAML 1.1
_Loader.yaml_implicit_resolvers = {}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
for _name, (_pattern, _first) in CORE_SCHEMA.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(rf"(?:{_pattern})\Z"),
            [*_first, *([""] if _name == "null" else [])],
        )

Place = tuple[str, ...]
"""The names that lead to a field, outermost first."""


def read_yaml(path: str | Path, kind: type[Settings]) -> Settings:
    """The settings in a YAML file; fields that it leaves out have their defaults.

    Args:
        path: The file.
        kind: What it describes.

    Raises:
        FileFormatError: If the file is missing, too large, or not YAML.
        ConfigurationError: If a field is unknown, of the wrong type or out of range; names file, line and field.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise FileFormatError(f'"{path}" cannot be read as text: it is not a file.')
        text = read_at_most(path, MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise FileFormatError(f'There is no file "{path}". Give the path of a YAML configuration.') from error
    except (OSError, ValueError) as error:
        raise FileFormatError(f'"{path}" cannot be read as text: {error}.') from error
    lines: dict[Place, int] = {}
    _require_visible(text, path)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _collect_lines(root, (), lines, path)
        data = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        reason = _brief(str(getattr(error, "problem", None) or error))
        if isinstance(error, _RefusedError):
            raise ConfigurationError(f'"{path}"{place}: {reason}.') from error
        raise FileFormatError(f'"{path}"{place}: this is not YAML: {reason}.') from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigurationError(f'"{path}", line 1: settings are written as "name: value", one per line.')
    try:
        settings = kind.model_validate(data, context={"file": path})
    except ValidationError as error:
        first = error.errors()[0]
        reason = _reason(first, kind)
        where = _where(_named(tuple(str(part) for part in first["loc"]), reason, lines), lines)
        raise ConfigurationError(f'"{path}"{_brief(where)}: {_ended(_brief(reason))}') from error
    if wrong := _converted(data, settings, ()):
        location, value, expected = wrong
        raise ConfigurationError(
            f'"{path}"{_brief(_where(location, lines))}: input should be {expected}, but it is {_brief(repr(value))}.'
        )
    return settings


def _require_visible(text: str, path: Path) -> None:
    """Raise a `FileFormatError` for letters that who reads the file does not see, or takes for the end of a line."""
    for number, line in enumerate(text.split("\n"), 1):
        for letter in line.removesuffix("\r"):
            if not letter.isprintable() and letter != "\t" and unicodedata.category(letter) != "Zs":
                raise FileFormatError(
                    f'"{path}", line {number}: this is not YAML without hidden text: there is the invisible or control '
                    f"character U+{ord(letter):04X}. Remove it."
                )


def _converted(written: Any, read: Any, place: Place) -> tuple[Place, Any, str] | None:
    """The first value that pydantic took for one of another type: the string "yes" for true, or true for 1."""
    if isinstance(written, Mapping):
        parts = [(name, value, _part(read, name)) for name, value in written.items()]
    elif isinstance(written, list) and isinstance(read, (list, tuple)):
        parts = [(str(i), value, inner) for i, (value, inner) in enumerate(zip(written, read, strict=True))]
    else:
        for expected, name in ((bool, "true or false"), ((int, float), "a number")):
            if isinstance(read, expected):
                # true is a number for Python
                fits = isinstance(written, expected) and isinstance(written, bool) == isinstance(read, bool)
                return None if fits else (place, written, name)
        return None
    found = (_converted(value, inner, (*place, str(name))) for name, value, inner in parts)
    return next((wrong for wrong in found if wrong), None)


def _part(read: Any, name: Any) -> Any:
    return read.get(name) if isinstance(read, Mapping) else getattr(read, str(name), None)


def write_yaml(settings: BaseModel) -> str:
    """The settings as YAML, every field written out; `read_yaml` reads it back."""
    text: str = yaml.dump(settings.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)
    return text


def unknown_field(name: str, known: Iterable[str]) -> str:
    """Says that there is no field of a name, and which one may be meant."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(known)}"
    return f'there is no field "{name}"; {hint}'


def _brief(text: str) -> str:
    """The text on one line, without what could control a terminal, and its middle left out where it is long."""
    return shown(text, MAX_MESSAGE)


def _ended(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _collect_lines(node: Any, path: Place, lines: dict[Place, int], file: Path) -> None:
    """The line of every field, and an error for a field that is there twice."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _collect_lines(item, (*path, str(i)), lines, file)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        place = (*path, str(key.value))
        line = key.start_mark.line + 1
        if place in lines:
            raise ConfigurationError(
                f'"{file}", line {line}: "{_brief(".".join(place))}" is set in line {lines[place]} already.'
            )
        lines[place] = line
        _collect_lines(value, place, lines, file)


def _named(location: Place, reason: str, lines: Mapping[Place, int]) -> Place:
    """The field below a location that the reason quotes, where there is one: the line to look at."""
    below = [place for place in lines if place[: len(location)] == location and f'"{place[-1]}"' in reason]
    # of several, the first one that is quoted: names that may be meant come later
    return max(below, key=lambda place: (len(place), -reason.index(f'"{place[-1]}"')), default=location)


def _where(place: Place, lines: Mapping[Place, int]) -> str:
    shown = ".".join(place)
    while place and place not in lines:
        place = place[:-1]
    return (f", line {lines[place]}" if place else "") + (f", {shown}" if shown else "")


def _reason(error: Any, kind: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        *owner, name = error["loc"]
        return unknown_field(str(name), _owner(kind, owner).model_fields)
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    if error["type"] == "value_error":
        return message
    return f"{message[0].lower()}{message[1:]}, but it is {error['input']!r}"


def _owner(kind: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel]:
    """The settings at a location inside others; names and positions in a mapping or sequence are passed over."""
    for name in location:
        if field := kind.model_fields.get(str(name)):
            kind = next(iter(_kinds(field.annotation)), kind)
    return kind


def _kinds(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _kinds(part)]
