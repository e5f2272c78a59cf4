"""A recipe: one TOML file that says what is trained, on which data, and how. Unknown keys and wrong types are errors."""

import json
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


@dataclass(frozen=True)
class Augmentation:
    """Pictures in memory: `crop` pixels of zeros on each side and a random window of the old size; a mirror image half of the
    time; a square of `cutout` pixels set to zero (DeVries and Taylor, arXiv 1708.04552). Picture files: `area` is the least
    and the largest share of a random crop (Szegedy et al. 2014, section 6; none: the recipe's own centre crop)."""

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    area: tuple[float, float] | None = None


@dataclass(frozen=True)
class Loss:
    """Cross-entropy over `scale` times the scores, plus the `aux` networks' at their own weight (Szegedy et al. 2014, section
    5: 0.3)."""

    label_smoothing: float = 0.0
    scale: float = 1.0
    aux: float = 0.3


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
        for name in ("epochs", "batch", "accumulate", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"recipe: {name} is 1 or more, not {getattr(self, name)}")
        for name in ("steps", "samples", "save_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"recipe: {name} is 1 or more, not {value}")
        if self.validation < 0:
            raise InputError(f"recipe: validation is a number of samples, not {self.validation}")
        if self.select == "best" and not self.validation:
            raise InputError('recipe: select = "best" needs validation samples')
        if self.optimizer.lr <= 0:
            raise InputError(f"recipe: optimizer.lr is above 0, not {self.optimizer.lr}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"recipe: ema is a decay between 0 and 1, not {self.ema}")
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"recipe: clip is above 0, not {self.clip}")


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
        raise InputError(f"{where}: no key {unknown[0]!r}; there are {', '.join(known)}")
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
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else repr(value)
