"""Encoder-decoder models of CTranslate2 (`model.bin`, binary versions 2 to 6) as networks of `transformer`.

The layout, little-endian: the version (uint32); the specification's name and revision; the number of variables; for each its
name, rank (uint8), sizes (uint32 each), kind (uint8), extent (uint32) and values; from version 3 on a list of aliases. A
string is its length with the closing NUL (uint16) and its bytes. Up to version 3 the kind is the size of a value and the
extent the number of values, from version 4 on the kind is a number of `DTYPES` and the extent counts bytes.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamina import units
from lamina.errors import LaminaError, first_line
from lamina.zoo.transformer import Config, Net

VERSIONS = range(2, 7)
DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
DTYPES_BY_SIZE = {4: torch.float32, 2: torch.int16, 1: torch.int8}  # up to version 3
HEADS = {"TransformerBase": 8, "TransformerBig": 16}  # specifications that leave the number of heads unsaid
INT16_SCALE = 1000.0  # of 16-bit weights without a scale of their own
RELU, SWISH = 0, 2  # CTranslate2's numbers of the activations that `transformer` has
READ = ("num_heads", "pre_norm", "activation")  # settings that the `Config` follows
IDLE = ("embeddings_merge", "alignment_heads", "alignment_layer")  # and those that change nothing here
SCALES = ("scale_embeddings", "multiply_by_sqrt_depth")  # 1 or sqrt(d_model) itself: the paper's; any other is refused
AXES = 4  # that a tensor has at most
EPSILON = 1e-5  # of the norms, unless the model's config.json says otherwise


@dataclass(frozen=True)
class File:
    """What `model.bin` holds: floating-point tensors, quantised ones as their values, and numbers for settings."""

    version: int
    spec: str
    revision: int
    variables: Mapping[str, Tensor]


class Reader:
    """The bytes of a file, taken from the front."""

    def __init__(self, path: Path):
        self.path, self.data, self.place = path, path.read_bytes(), 0

    def take(self, count: int) -> bytes:
        part = self.data[self.place : self.place + count]
        if len(part) < count:
            raise LaminaError(f"{self.path} is cut short or not a CTranslate2 model: it ends at byte {len(self.data)}")
        self.place += count
        return part

    def number(self, form: str) -> int:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        place = self.place
        text = self.take(self.number("H")).rstrip(b"\0").decode(errors="replace")
        if not text.isprintable():
            raise LaminaError(f"{self.path} is damaged: there is no name at byte {place}")
        return text

    def variable(self, version: int) -> tuple[str, Tensor]:
        name = self.text()
        sizes = [self.number("I") for _ in range(self.number("B"))]
        kind, extent = self.number("B"), self.number("I")
        dtype = DTYPES_BY_SIZE.get(kind) if version < 4 else DTYPES[kind] if kind < len(DTYPES) else None
        if dtype is None:
            raise LaminaError(f"{self.path}: the values of {name} are of the unknown kind {kind}")
        if len(sizes) > AXES:
            raise LaminaError(f"{self.path} is damaged: {name} has {len(sizes)} axes")
        data = self.take(extent * kind if version < 4 else extent)
        if len(data) != math.prod(sizes) * dtype.itemsize:
            raise LaminaError(f"{self.path} is damaged: {name} has {len(data)} bytes for the shape {sizes}")
        return name, torch.frombuffer(bytearray(data), dtype=dtype).reshape(sizes)


def read(path: str | Path) -> File:
    """The variables of a `model.bin`, or of the one in the folder `path`; 8- and 16-bit weights are dequantised."""
    path = Path(path) / "model.bin" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise LaminaError(f"{path}: no such CTranslate2 model")
    reader = Reader(path)
    version = reader.number("I")
    if version not in VERSIONS:
        raise LaminaError(f"{path} is not a CTranslate2 model of binary version {VERSIONS[0]} to {VERSIONS[-1]}")
    spec, revision = reader.text(), reader.number("I")
    variables = dict(reader.variable(version) for _ in range(reader.number("I")))
    dequantise(variables)
    for _ in range(reader.number("I") if version >= 3 else 0):
        alias, name = reader.text(), reader.text()
        if name in variables:
            variables[alias] = variables[name]
    if reader.place != len(reader.data):
        raise LaminaError(f"{path} is damaged: {len(reader.data) - reader.place} bytes follow its end")
    return File(version, spec, revision, variables)


def dequantise(variables: dict[str, Tensor]) -> None:
    """Whole-number weights become values / scale, in place; a scale belongs to a row or to the whole."""
    for name in [n for n, v in variables.items() if n.endswith("weight") and v.dtype in (torch.int8, torch.int16)]:
        scale = variables.pop(f"{name}_scale", None)
        if scale is None:
            if variables[name].dtype == torch.int8:
                raise LaminaError(f"{name} is quantised and has no scale")
            scale = torch.tensor(INT16_SCALE)
        value = variables[name]
        if scale.numel() != 1 and (value.dim() != 2 or scale.numel() != len(value)):
            raise LaminaError(f"{name} has {scale.numel()} scales for the shape {tuple(value.shape)}")
        variables[name] = value.float() / (scale if scale.numel() == 1 else scale.flatten()[:, None])


# ---- names: theirs, and ours in the order of the rows that one of theirs joins --------------------------------------------

_LINEAR = {"weight": "weight", "bias": "bias"}
_NORM = {"gamma": "weight", "beta": "bias"}
STACK = r"(encoder|decoder)/layer_(\d+)/"
KEYS: tuple[tuple[str, tuple[str, ...], Mapping[str, str]], ...] = (
    (r"encoder/embeddings(?:_0)?/", ("embedding.",), _LINEAR),
    (r"decoder/embeddings(?:_0)?/", ("target_embedding.",), _LINEAR),
    (r"decoder/projection/", ("output_",), _LINEAR),
    (r"(encoder|decoder)/layer_norm/", (r"\1_norm.",), _NORM),
    (
        STACK + r"self_attention/linear_0/",
        (r"\1.\2.self_attention.query.", r"\1.\2.self_attention.key.", r"\1.\2.self_attention.value."),
        _LINEAR,
    ),
    (STACK + r"self_attention/linear_1/", (r"\1.\2.self_attention.out.",), _LINEAR),
    (STACK + r"self_attention/layer_norm/", (r"\1.\2.self_norm.",), _NORM),
    (STACK + r"attention/linear_0/", (r"\1.\2.cross_attention.query.",), _LINEAR),
    (STACK + r"attention/linear_1/", (r"\1.\2.cross_attention.key.", r"\1.\2.cross_attention.value."), _LINEAR),
    (STACK + r"attention/linear_2/", (r"\1.\2.cross_attention.out.",), _LINEAR),
    (STACK + r"attention/layer_norm/", (r"\1.\2.cross_norm.",), _NORM),
    (STACK + r"ffn/linear_0/", (r"\1.\2.fc1.",), _LINEAR),
    (STACK + r"ffn/linear_1/", (r"\1.\2.fc2.",), _LINEAR),
    (STACK + r"ffn/layer_norm/", (r"\1.\2.ff_norm.",), _NORM),
)


def state(file: File) -> dict[str, Tensor]:
    """The tensors by the names of `transformer.Net` with `tie=False`. Settings (without a dimension) are left out."""
    result = {}
    for name, value in file.variables.items():
        if value.dim() == 0:
            continue
        for pattern, targets, ends in KEYS:
            if (found := re.match(pattern, name)) and (end := ends.get(name[found.end() :])):
                if len(value) % len(targets):
                    raise LaminaError(f"{name} has {len(value)} rows, which are to be {len(targets)} matrices")
                for target, part in zip(targets, value.float().chunk(len(targets)), strict=True):
                    result[found.expand(target) + end] = part.contiguous()
                break
        else:
            raise LaminaError(f"{name} has no place in the zoo's Transformer")
    return result


def config(file: File) -> Config:
    """The `Config` of a file: sizes by its tensors; the number of heads, the place of the norms and the activation by its
    settings or, in older files, by the specification's name and CTranslate2's defaults."""
    weights = state(file)
    vocabulary, d_model = weights["embedding.weight"].shape
    found = settings(file, d_model)
    activation = found.get("activation", RELU)
    if activation not in (RELU, SWISH):
        raise LaminaError(f"the activation with the number {activation} is none of the zoo's Transformer's")
    heads = found.get("num_heads", HEADS.get(file.spec, 8))
    if heads < 1:
        raise LaminaError(f"the model's number of heads is {heads}")
    layers = {side: {key.split(".")[1] for key in weights if key.startswith(f"{side}.")} for side in ("encoder", "decoder")}
    return Config(
        encoder_layers=len(layers["encoder"]),
        decoder_layers=len(layers["decoder"]),
        d_model=d_model,
        d_ff=weights["encoder.0.fc1.weight"].shape[0],
        n_heads=heads,
        vocabulary=vocabulary,
        target_vocabulary=weights["target_embedding.weight"].shape[0],
        tie=False,
        norm="pre" if found.get("pre_norm", 1) else "post",
        attention_bias="encoder.0.self_attention.query.bias" in weights,
        output_bias="output_bias" in weights,
        activation="relu" if activation == RELU else "silu",
        positions="opennmt",
        dropout=0.0,
    )


def settings(file: File, d_model: int) -> dict[str, int]:
    """The settings of `READ` that the file has. One that asks for what the zoo's Transformer is not is an error."""
    found: dict[str, int] = {}
    for name, tensor in file.variables.items():
        if tensor.dim() or name.endswith("_scale"):
            continue
        value, last = tensor.item(), name.rsplit("/", 1)[-1]
        if not math.isfinite(value):
            known = False
        elif last in READ:
            known = value == found.setdefault(last, int(value))  # encoder and decoder alike
        elif last in SCALES:
            known = value == 1 if tensor.dtype == torch.int8 else math.isclose(value, math.sqrt(d_model), rel_tol=1e-3)
        else:
            known = last in IDLE or value == 0
        if not known:
            raise LaminaError(f"the model's {name} is {value}, which the zoo's Transformer does not know")
    return found


def is_model(path: str | Path) -> bool:
    """Whether `path` is the folder of a model."""
    return (Path(path) / "model.bin").is_file()


def load(path: str | Path) -> Net:
    """The network of a folder's `model.bin`, or of that file, with its weights and in evaluation mode."""
    file = read(path)
    epsilon = read_settings(path).get("layer_norm_epsilon")
    if epsilon not in (None, EPSILON):
        raise LaminaError(f"{path}/config.json: layer_norm_epsilon is {epsilon}, the zoo's Transformer has {EPSILON}")
    weights = state(file)
    try:
        with torch.device("meta"):
            net = Net(config(file))
    except (KeyError, ValueError, RuntimeError) as error:
        raise LaminaError(f"{path} does not describe a Transformer ({first_line(error)})") from error
    wanted = net.state_dict()
    if left := sorted(set(weights) ^ set(wanted)):
        raise LaminaError(f"{path} is not a plain Transformer: missing or left over are {', '.join(left[:4])}")
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            shapes = units.shape(tuple(value.shape)), units.shape(tuple(wanted[key].shape))
            raise LaminaError(f"{path} is damaged: {key} is {shapes[0]}, not {shapes[1]}")
    net.load_state_dict(weights, strict=True, assign=True)
    return net.eval()


def read_settings(path: str | Path) -> dict[str, Any]:
    """What newer models say in `config.json`; empty for older ones."""
    extra = Path(path) / "config.json"
    if not extra.is_file():
        return {}
    try:
        table = json.loads(extra.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise LaminaError(f"{extra} is not a JSON object")
    return table
