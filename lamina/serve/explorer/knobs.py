"""What can be changed of a network: every field of its configuration, and the size of its input."""

import ast
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, get_args

from lamina.errors import InputError
from lamina.sources.source import Input
from lamina.zoo import registry

MOST = 16  # times its own value that a number may become: a page that asks for more asks by mistake
ROOM = 64  # or up to here, whatever the value was


def fields(name: str) -> list[dict[str, Any]]:
    """The knobs of a network of the zoo: {"name", "value", "default", "type", "choices"}. A field of several numbers has
    one for each, "depths.0" the first."""
    if name not in registry.counts():
        return []
    config = registry.spec(name).config
    rows = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(value, tuple) and value and all(type(x) is int for x in value):
            rows += [_row(f"{f.name}.{i}", x, int) for i, x in enumerate(value)]
        else:
            rows.append(_row(f.name, value, f.type))
    return rows


def _row(name: str, value: Any, kind: Any) -> dict[str, Any]:
    choices = [c for c in get_args(kind) if isinstance(c, str)]
    forms = {bool: "bool", int: "int", float: "float"}
    form = forms.get(type(value), "choice" if choices else "text")
    shown = str(value).lower() if isinstance(value, bool) else value if isinstance(value, int | float) else _text(value)
    return {"name": name, "value": shown, "default": shown, "type": form} | ({"choices": choices} if choices else {})


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def read(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Changes as text to values of the configuration's types. Raises `InputError`, one line."""
    config = registry.spec(name).config
    known = {f.name: f for f in dataclasses.fields(config)}
    changes: dict[str, Any] = {}
    for key, text in given.items():
        field, _, place = key.partition(".")
        if field not in known:
            raise InputError(f"{name} has no {key}; what can be changed: {', '.join(known)}")
        value = changes.get(field, getattr(config, field))
        if place:
            if not isinstance(value, tuple) or not place.isdigit() or int(place) >= len(value):
                raise InputError(f"{name} has no {key}")
            entries = list(value)
            entries[int(place)] = _value(key, text, entries[int(place)])
            changes[field] = tuple(entries)
        else:
            changes[field] = _value(key, text, value)
    return changes


def _value(key: str, text: str, like: Any) -> Any:
    """The text as a value of the type of `like`; of one that is None, whatever it reads as."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"{key} is true or false, not {text!r}")
        return text.lower() == "true"
    if isinstance(like, int | float):
        try:
            value = type(like)(text)
        except ValueError:
            raise InputError(f"{key} is a {'whole ' if isinstance(like, int) else ''}number, not {text!r}") from None
        if not abs(value) <= max(ROOM, MOST * abs(like)):
            raise InputError(f"{key} is at most {max(ROOM, MOST * abs(like))} here, not {text}")
        return value
    if isinstance(like, str):
        return text
    try:
        value = ast.literal_eval(text) if text else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(x, int | float) and abs(x) > 1 << 16 for x in numbers) or len(numbers) > ROOM:
        raise InputError(f"{key} is too large: {text}")
    return value


def change(net: Any, given: Mapping[str, str]) -> Any:
    """The network (`lamina.cli.network.Network`) with these changes: fields of its configuration, or "resolution" or "sequence"
    of its input. The images of a changed network are as large and have as many channels as its configuration says."""
    sizes = {key: given[key] for key in ("resolution", "sequence") if key in given}
    rest = {key: text for key, text in given.items() if key not in sizes}
    if rest and net.name not in registry.counts():
        raise InputError(f"{net.name} is not of the zoo: only its resolution or its sequence can be changed")
    if rest:
        net = _configured(net, read(net.name, rest))
    for axis, text in sizes.items():
        if not text.isdigit() or not 1 <= int(text) <= 1 << 16:
            raise InputError(f"{axis} is a whole number from 1 to {1 << 16}, not {text!r}")
        net = dataclasses.replace(net, inputs=net.resized(axis, int(text)))
    return net


def _configured(net: Any, changes: Mapping[str, Any]) -> Any:
    module = registry.assemble(net.name, **changes).eval()
    inputs = dict(net.source.inputs)
    if {"img_size", "in_channels"} & set(changes):
        name = next(iter(inspect.signature(module.forward).parameters))
        config = module.config
        inputs = {name: Input((1, config.in_channels, config.img_size, config.img_size))}
    return dataclasses.replace(net, source=dataclasses.replace(net.source, module=module, inputs=inputs))


def sizes(net: Any) -> dict[str, int]:
    """The size of the input that can be changed beside the configuration's: "resolution" of images, "sequence" of tokens. The
    zoo's images follow `img_size`."""
    if not net.sizes:
        return {}
    axis = "sequence" if net.tokens else "resolution"
    if axis == "resolution" and (net.name in registry.counts() or len(net.shape) != 4):
        return {}
    try:
        return {axis: net.size(axis)}
    except InputError:
        return {}
