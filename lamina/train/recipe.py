"""A recipe: one TOML file that says what is trained, on which data, and how. Unknown keys and wrong types are errors."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import tomli_w
from msgspec import Meta, Struct, field

from lamina.errors import InputError, reason

Count = Annotated[int, Meta(ge=0, le=2**53)]  # what JSON keeps exactly
AtLeastOne = Annotated[int, Meta(ge=1, le=2**53)]
LARGEST = 1e30  # of the other numbers: it keeps infinity out
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Meta(ge=0, le=LARGEST)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Optimizer(Struct, frozen=True, forbid_unknown_fields=True):
    """`weight_decay` acts on matrices and filters alone, unless `decay_all`: then on biases and norms too, as in the papers
    up to 2016. Adam adds it to the gradient, AdamW to the update (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["sgd", "adam", "adamw"]
    lr: Positive
    momentum: BelowOne = 0.9  # of SGD
    nesterov: bool = False
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)  # of Adam and AdamW
    eps: Positive = 1e-8
    body: NotNegative = 1.0  # what the learning rate of all but the last layer is multiplied by, for fine-tuning
    weight_decay: NotNegative = 0.0
    decay_all: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("nesterov = true needs a momentum above 0")


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """The learning rate over the steps, after a linear rise over `warmup` steps.

    "steps" multiplies by `gamma` at each of `milestones` (in epochs); "cosine" and "linear" fall to `final` times the peak at
    the last step; "inverse_sqrt" falls with 1 / sqrt(step) after the rise (Vaswani et al. 2017, equation 3).
    """

    name: Literal["constant", "steps", "cosine", "linear", "inverse_sqrt"] = "constant"
    warmup: Count = 0
    milestones: tuple[NotNegative, ...] = ()
    gamma: Positive = 0.1
    final: Share = 0.0

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"milestones are epochs in ascending order, not {list(self.milestones)}")


class Augmentation(Struct, frozen=True, forbid_unknown_fields=True):
    """Images in memory: `crop` pixels of zeros on each side and a random window of the old size; mirrored half of the time; a
    square of `cutout` pixels set to zero (DeVries and Taylor, arXiv 1708.04552). Image files: `area` is the smallest and the
    largest share of a random crop (Szegedy et al. 2014, section 6; none: the recipe's own centre crop)."""

    crop: Count = 0
    flip: bool = False
    cutout: Count = 0
    area: tuple[Share, Share] | None = None

    def __post_init__(self) -> None:
        if self.area is not None and not 0 < self.area[0] <= self.area[1]:
            raise InputError(f"area is two shares above 0, the smaller first, not {list(self.area)}")


class Loss(Struct, frozen=True, forbid_unknown_fields=True):
    """Cross-entropy of `scale` times the scores, plus that of the auxiliary heads times `aux` (Szegedy et al. 2014, section
    5: 0.3)."""

    label_smoothing: Share = 0.0
    scale: Positive = 1.0
    aux: NotNegative = 0.3


class Text(Struct, frozen=True, forbid_unknown_fields=True):
    """Languages are columns or file suffixes of the corpus; one byte-pair encoding of `vocabulary` tokens serves both.
    Pairs longer than `max_length` tokens are left out of training."""

    source: str
    target: str
    vocabulary: AtLeastOne
    max_length: AtLeastOne = 128


class Mark(Struct, frozen=True, forbid_unknown_fields=True):
    """A published result that ours is compared with: "top1" in percent, or "bleu"."""

    measure: Literal["top1", "bleu"]
    value: NotNegative
    source: str


class Level(Struct, frozen=True, forbid_unknown_fields=True):
    """A level of multilevel training (lamina/scale/schedule.py): so many epochs, or as many steps as `macs`
    multiply-accumulates pay for, after growing by these factors from the level before."""

    epochs: AtLeastOne | None = None
    macs: Positive | None = None
    grow: dict[str, AtLeastOne] = {}
    operator: dict[str, str] = {}
    warmup: Count | None = None  # steps; by default the recipe's

    def __post_init__(self) -> None:
        if self.epochs is not None and self.macs is not None:
            raise InputError("a level lasts for epochs or for macs: give one")


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """`batch` is in images, or for text in tokens of the longer side. `validation` samples are held out of the training split
    by seed; with `select = "best"` they choose the epoch, and the test split never does."""

    network: str
    data: str
    epochs: AtLeastOne
    batch: AtLeastOne
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    optimizer: Optimizer
    about: str = ""  # the paper, and where the recipe differs from it
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    text: Text | None = None
    mark: Mark | None = None
    image: dict[str, Any] = {}  # as in a weight file: lamina.data.image.ImageSpec
    changes: dict[str, Any] = {}  # of the network's configuration
    levels: tuple[Level, ...] = ()
    start: str | None = None  # weights to begin with: a run's or a grown network's folder or file, or a zoo name
    steps: AtLeastOne | None = None  # stop after so many, if that comes before the last epoch
    samples: AtLeastOne | None = None  # train on so many of the training split, chosen by seed
    validation: Count = 0
    select: Literal["last", "best"] = "last"
    precision: Literal["fp32", "bf16"] = "fp32"
    clip: Positive | None = None  # the largest norm of all gradients together
    accumulate: AtLeastOne = 1  # micro-batches per step
    ema: Annotated[float, Meta(gt=0, lt=1)] | None = None  # decay of the averaged weights, which are then evaluated and kept
    channels_last: bool = False
    compile: bool = False
    save_steps: AtLeastOne | None = None  # a checkpoint every so many steps, besides that of each epoch
    keep: AtLeastOne = 2  # the newest checkpoints that stay, besides the best

    def __post_init__(self) -> None:
        if self.select == "best" and not self.validation:
            raise InputError('select = "best" needs validation samples')
        for table, values in (("image", self.image), ("changes", self.changes)):
            for key, value in values.items():
                if not _is_plain(value):
                    kinds = "a string, a finite number, true or false, or a list of these"
                    raise InputError(f"{table}.{key}: expected {kinds}, not {_shown(value)}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str) or (isinstance(value, int | float) and abs(value) <= LARGEST)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


TABLES: dict[str, type[Struct]] = {
    "": Recipe,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "augmentation": Augmentation,
    "loss": Loss,
    "text": Text,
    "mark": Mark,
}


def names() -> list[str]:
    """The recipes that come with Lamina."""
    return sorted(p.name.removesuffix(".toml") for p in files("lamina.train").joinpath("recipes").iterdir())


def read(recipe: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by name or path; `settings` such as "optimizer.lr=0.1" take the place of its own values."""
    path = Path(recipe)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {reason(error)}") from error
        except UnicodeDecodeError:
            raise InputError(f"{path} is not a text file") from None
    elif str(recipe) in names():
        text = files("lamina.train").joinpath("recipes", f"{recipe}.toml").read_text(encoding="utf-8")
    else:
        raise InputError(f"{recipe}: no such recipe; there are {', '.join(names())}, or give a file FILE.toml")
    return loads(text, str(recipe), settings)


def loads(text: str, where: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML; `where` names it in errors."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # among them numbers of thousands of digits
        raise InputError(f"{where} is not TOML: {error}") from error
    for setting in settings:
        _set(table, setting)
    return parse(table, where)


def _set(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {setting}: it has the form KEY=VALUE, as in optimizer.lr=0.1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text  # a bare word is a string
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {setting}: {parent} is a value, not a table")
    table[last] = value


def parse(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from the tables of a TOML file, every key and value checked. `where` names it in errors."""
    try:
        return msgspec.convert(table, Recipe)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {_explain(str(error), table)}") from error


def _explain(message: str, table: Mapping[str, Any]) -> str:
    """msgspec's "Expected `float` > 0.0 - at `$.optimizer.lr`" as "optimizer.lr: expected a number > 0, not -1"."""
    text, _, place = message.rpartition(" - at `$") if " - at `$" in message else (message, "", "")
    path = place.removesuffix("`").removeprefix(".")
    prefix = f"{path}." if path else ""
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        known = TABLES.get(path, Recipe).__struct_fields__
        near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.5)
        hint = f"the nearest is {prefix}{near[0]}" if near else f"there are {', '.join(known)}"
        return f"no key {prefix + unknown[1]!r}; {hint}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return f"{prefix}{missing[1]} is missing"
    if text.startswith("Invalid enum value"):
        parent, _, key = path.rpartition(".")
        hint = next(f.type for f in msgspec.structs.fields(TABLES[parent]) if f.name == key)
        return f"{path} is one of {', '.join(get_args(hint))}, not {_shown(_value(table, path))}"
    if text.startswith("Expected"):
        wanted = re.sub(r"`([^`]*)`", lambda kinds: _words(kinds[1]), text.partition(", got")[0].removeprefix("Expected "))
        return f"{path}: expected {re.sub(r'[.]0(?![0-9])', '', wanted)}, not {_shown(_value(table, path))}"
    return f"{path}: {text}" if path else text


def _words(kinds: str) -> str:
    words = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false"}
    words |= {"array": "a list", "object": "a table"}
    return " or ".join(words.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")


def _value(table: Mapping[str, Any], path: str) -> Any:
    value: Any = table
    for part in re.findall(r"[^.\[\]]+", path):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every value by its key, as `--set` has them."""

    def walk(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in table.items():
            found |= walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    return walk(msgspec.to_builtins(recipe))


def difference(there: Recipe, here: Recipe) -> str:
    """The first key whose value differs, as in "optimizer.lr is 0.1 there and 0.2 here"."""
    old, new = flat(there), flat(here)
    for key in old | new:
        if old.get(key) != new.get(key):
            return f"{key} is {old.get(key)} there and {new.get(key)} here"
    return ""


def origin(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The recipe of Lamina's that this one is nearest to, and what it has otherwise, by key; texts (`about`) aside."""
    own, found = flat(recipe), dict[str, dict[str, Any]]()
    for name in names():
        other = flat(read(name))
        found[name] = {k: own.get(k) for k in other | own if other.get(k) != own.get(k) and k != "about" and "mark" not in k}
    nearest = min(found, key=lambda name: len(found[name]))
    return nearest, found[nearest]


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, every field written out; `read` gives the same recipe back."""
    table: dict[str, Any] = {k: v for k, v in msgspec.to_builtins(recipe).items() if v is not None and v != {}}
    tables = {k: {name: x for name, x in v.items() if x is not None} for k, v in table.items() if isinstance(v, dict)}
    return tomli_w.dumps(table | tables)
