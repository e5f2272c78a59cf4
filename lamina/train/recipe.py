"""A recipe: one TOML file that says what is trained, on which data, and how. Unknown keys and wrong types are errors."""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lamina.errors import InputError


@dataclass(frozen=True)
class Optimizer:
    """`weight_decay` acts on matrices and filters alone, unless `decay_all`: then on biases and norms too, as the papers up
    to 2016 have it. Adam's is in the gradient, AdamW's beside it (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float
    momentum: float = 0.9  # of SGD
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False

    def __post_init__(self) -> None:
        check("optimizer.lr", self.lr, "above 0", 0 < self.lr < math.inf)
        check("optimizer.momentum", self.momentum, "in [0, 1)", 0 <= self.momentum < 1)
        check("optimizer.nesterov", self.nesterov, "false where momentum is 0", self.momentum > 0 or not self.nesterov)
        check("optimizer.betas", self.betas, "two numbers in [0, 1)", all(0 <= beta < 1 for beta in self.betas))
        check("optimizer.eps", self.eps, "above 0", 0 < self.eps < math.inf)
        check("optimizer.weight_decay", self.weight_decay, "0 or more", 0 <= self.weight_decay < math.inf)


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps, after a linear rise over `warmup` steps.

    "steps" multiplies by `gamma` at each of `milestones` (in epochs); "cosine" and "linear" fall to `final` times the peak at
    the last step; "inverse_sqrt" falls with 1 / sqrt(step) from the end of the rise (Vaswani et al. 2017, equation 3).
    """

    name: Literal["constant", "steps", "cosine", "linear", "inverse_sqrt"] = "constant"
    warmup: int = 0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        check("schedule.warmup", self.warmup, "a number of steps", self.warmup >= 0)
        check("schedule.milestones", self.milestones, "epochs in order", list(self.milestones) == sorted(self.milestones))
        check("schedule.gamma", self.gamma, "above 0", 0 < self.gamma < math.inf)
        check("schedule.final", self.final, "in [0, 1]", 0 <= self.final <= 1)


@dataclass(frozen=True)
class Augmentation:
    """Pictures in memory: `crop` pixels of zeros on each side and a random window of the old size; a mirror image half of the
    time; a square of `cutout` pixels set to zero (DeVries and Taylor, arXiv 1708.04552). Picture files: `area` is the least
    and the largest share of a random crop (Szegedy et al. 2014, section 6; none: the recipe's own centre crop)."""

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    area: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check("augmentation.crop", self.crop, "a number of pixels", self.crop >= 0)
        check("augmentation.cutout", self.cutout, "a number of pixels", self.cutout >= 0)
        low, high = self.area or (1.0, 1.0)
        check("augmentation.area", self.area, "two shares of the area, the smaller first", 0 < low <= high <= 1)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy over `scale` times the scores, plus the `aux` networks' at their own weight (Szegedy et al. 2014, section
    5: 0.3)."""

    label_smoothing: float = 0.0
    scale: float = 1.0
    aux: float = 0.3

    def __post_init__(self) -> None:
        check("loss.label_smoothing", self.label_smoothing, "in [0, 1]", 0 <= self.label_smoothing <= 1)
        check("loss.scale", self.scale, "above 0", 0 < self.scale < math.inf)
        check("loss.aux", self.aux, "0 or more", 0 <= self.aux < math.inf)


@dataclass(frozen=True)
class Text:
    """Languages are columns or file suffixes of the corpus; one byte-pair encoding of `vocabulary` tokens serves both.
    Pairs longer than `max_length` tokens are left out of training."""

    source: str
    target: str
    vocabulary: int
    max_length: int = 128


@dataclass(frozen=True)
class Mark:
    """A published result to stand beside ours: "top1" in percent, or "bleu"."""

    measure: Literal["top1", "bleu"]
    value: float
    source: str


@dataclass(frozen=True)
class Recipe:
    """`batch` is in pictures, or in tokens of the longer side for text. `validation` samples are taken out of the training set
    by seed; with `select = "best"` they choose the epoch, and the test set never does."""

    network: str
    data: str
    epochs: int
    batch: int
    seed: int
    optimizer: Optimizer
    about: str = ""  # the paper, and where the recipe departs from it
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    text: Text | None = None
    mark: Mark | None = None
    image: dict[str, Any] = field(default_factory=dict)  # as in a weight file: lamina.data.image.ImageSpec
    changes: dict[str, Any] = field(default_factory=dict)  # of the network's configuration
    steps: int | None = None  # stop after so many, if that comes before the last epoch
    samples: int | None = None  # train on so many of the training set, taken by seed
    validation: int = 0
    select: Literal["last", "best"] = "last"
    precision: Literal["fp32", "bf16"] = "fp32"
    clip: float | None = None  # the largest norm of all gradients together
    accumulate: int = 1  # parts that a batch is worked through in
    ema: float | None = None  # decay of the averaged weights, which are then the ones evaluated and kept
    channels_last: bool = False
    compile: bool = False
    save_steps: int | None = None  # a checkpoint every so many steps beside that of each epoch
    keep: int = 2  # the newest checkpoints that stay, the best beside them

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "keep", "steps", "samples", "save_steps"):
            value = getattr(self, name)
            check(name, value, "1 or more", value is None or value >= 1)
        check("seed", self.seed, "a whole number from 0 to 2^32 - 1", 0 <= self.seed < 2**32)
        check("validation", self.validation, "a number of samples", self.validation >= 0)
        check("ema", self.ema, "a decay between 0 and 1", self.ema is None or 0 < self.ema < 1)
        check("clip", self.clip, "above 0", self.clip is None or self.clip > 0)
        if self.select == "best" and not self.validation:
            raise InputError('recipe: select = "best" needs validation samples')


def check(key: str, value: Any, what: str, holds: bool) -> None:
    if not holds:
        raise InputError(f"recipe: {key} is {what}, not {value}")


def names() -> list[str]:
    """The recipes that come with Lamina."""
    return sorted(p.name.removesuffix(".toml") for p in files("lamina.train").joinpath("recipes").iterdir())


def read(recipe: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by name or path, with `settings` such as "optimizer.lr=0.1" laid over it."""
    path = Path(recipe)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise InputError(f"{path} is no text file") from None
    elif str(recipe) in names():
        text = files("lamina.train").joinpath("recipes", f"{recipe}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(f"{recipe}: no such recipe; there are {', '.join(names())}, or give a file FILE.toml")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{recipe} is not TOML: {error}") from error
    for setting in settings:
        _set(table, setting)
    return build(Recipe, table, str(recipe))


def _set(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: it has the form KEY=VALUE, as in optimizer.lr=0.1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {setting}: {parent} is a value, not a table")
    table[last] = value


def build(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a table of a TOML file, each value checked against its field's type."""
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(table) - set(known)):
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
        raise InputError(f"{where}: no key {unknown[0]!r}; {hint}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:  # a key without a default is missing
        raise InputError(f"{where}: {str(error).split('__init__() ')[-1]}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (hint,) = [a for a in arguments if a is not type(None)]
        return _value(hint, value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} is one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            raise InputError(f"{where} has {len(kinds)} values, not {len(value)}")
        return tuple(_value(k, v, where) for k, v in zip(kinds, value, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    kind: Any = origin or hint
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", tuple: "a list"}
        raise InputError(f"{where} is {wanted.get(kind, 'a table')}, not {value!r}")
    return value


def difference(there: Recipe, here: Recipe) -> str:
    """The first key whose value differs, as in "optimizer.lr is 0.1 there and 0.2 here"."""

    def values(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in table.items():
            flat |= values(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return flat

    old, new = values(asdict(there)), values(asdict(here))
    for key in old | new:
        if old.get(key) != new.get(key):
            return f"{key} is {old.get(key)} there and {new.get(key)} here"
    return ""


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, every field written out; `read` gives the same recipe back."""
    lines, tables = [], []
    for key, value in asdict(recipe).items():
        if isinstance(value, dict):
            if value or key not in ("image", "changes"):
                tables.append("\n".join([f"[{key}]", *(f"{k} = {_text(v)}" for k, v in value.items() if v is not None)]))
        elif value is not None:
            lines.append(f"{key} = {_text(value)}")
    return "\n\n".join(["\n".join(lines), *tables]) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, (str, bool)):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
