"""What the growth operators see of a network: where its blocks, hidden units, heads and channels lie in its state."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lamina.errors import InputError
from lamina.scale.plan import Step

Role = Literal["query", "key", "value"]
ROLES: tuple[Role, ...] = ("query", "key", "value")


@dataclass(frozen=True)
class Matrix:
    """A linear layer or convolution at `path`. `rows` is the axis of its weight that makes the outputs, `columns` the one that
    reads the inputs (transformers' Conv1D has them the other way round)."""

    path: str
    rows: int = 0
    columns: int = 1
    bias: bool = True

    @property
    def weight(self) -> str:
        return f"{self.path}.weight"

    @property
    def producers(self) -> list[tuple[str, int]]:
        """The tensors, each with the axis, that run over the outputs."""
        return [(self.weight, self.rows)] + ([(f"{self.path}.bias", 0)] if self.bias else [])


@dataclass(frozen=True)
class FeedForward:
    """`down(act(up x))`, or gated, with two `up`."""

    path: str
    up: tuple[Matrix, ...]
    down: Matrix
    width: int


@dataclass(frozen=True)
class Attention:
    """Each projection is a matrix and the roles whose rows it stacks, each role's heads in a row."""

    path: str
    projections: tuple[tuple[Matrix, tuple[Role, ...]], ...]
    out: Matrix
    n_heads: int
    n_kv: int
    head_width: int
    rotary: bool = False


@dataclass(frozen=True)
class Block:
    """One block of a stack. `last` are the tensors whose product with h makes the block's branches h times as large."""

    path: str
    last: tuple[str, ...]
    fixed: str = ""  # why it cannot be split, where it changes the shape


@dataclass(frozen=True)
class Stack:
    """A row of residual blocks `path`.0, `path`.1, ..."""

    path: str
    blocks: tuple[Block, ...]
    kind: Literal["pre", "post-activation"]


@dataclass(frozen=True)
class Stream:
    """The residual stream of `width` features: the tensors (and axis) that write or scale it, and the matrices that read it.
    `head` are the tensors that scale what a head tied to the embedding reads."""

    width: int
    writers: tuple[tuple[str, int], ...]
    readers: tuple[Matrix, ...]
    head: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()  # the weights of RMS norms; empty: layer norms, for which padding is not exact


@dataclass(frozen=True)
class Channels:
    """The tensors (and axis) that run over some channels, and the matrices that read these. Copies are made of `run` channels
    in a row: of groups as a whole."""

    writers: tuple[tuple[str, int], ...]
    readers: tuple[Matrix, ...]
    run: int = 1


class Family:
    """A network as the operators see it. A subclass describes one kind; what it does not override is refused by name."""

    float64 = True  # whether it computes in float64 where its weights are of that type

    def __init__(self, module: nn.Module):
        self.module = module
        self.config: Any = getattr(module, "config", None)

    @property
    def name(self) -> str:
        return type(self).__name__

    def build(self) -> nn.Module:
        """The network of the present configuration, with weights of any value (or none, on the meta device)."""
        raise NotImplementedError

    def fresh(self) -> dict[str, Tensor]:
        """The state of a newly initialised network of the present configuration."""
        module = self.build().to_empty(device="cpu")
        initialise = getattr(module, "init_weights", None)
        if initialise is None:
            raise self.refusal("depth", "it does not say how new blocks are initialised", "zero insertion copies old ones")
        with torch.no_grad():
            initialise()
        return module.state_dict()

    def finish(self, module: nn.Module) -> None:
        """What is left to do once the weights are in."""

    # ---- what is where ---------------------------------------------------------------------------------------------

    def stacks(self) -> list[Stack]:
        raise self.refusal("depth", "it has no residual blocks, and without a shortcut no new layer is the identity")

    def rows(self) -> list[Stack]:
        """The stacks to look at, also where none can grow."""
        return self.stacks()

    def hidden(self) -> tuple[tuple[str, str], ...]:
        """Of a block, the weights that write and that read hidden units whose order is free: rows and columns."""
        return ()

    def feed_forwards(self) -> list[FeedForward]:
        raise self.refusal("feed_forward", "it has no position-wise layers")

    def attentions(self) -> list[Attention]:
        raise self.refusal("heads", "it has no attention")

    def stream(self) -> Stream:
        raise self.refusal("model_width", "it has no residual stream that all layers share")

    def patches(self) -> tuple[str, str] | None:
        """The names of the patch embedding's weight and of the position embedding."""
        return None

    def channels(self) -> list["Channels"]:
        raise self.refusal("channels", "it has no convolutions whose channels could be copied")

    # ---- the configuration of the changed network -------------------------------------------------------------------

    def with_depths(self, depths: Sequence[int]) -> "Family":
        raise self.refusal("depth", "its configuration fixes the number of blocks")

    def with_feed_forward(self, width: int) -> "Family":
        raise self.refusal("feed_forward", "its configuration fixes their width")

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> "Family":
        raise self.refusal("heads", "its configuration fixes them")

    def with_model_width(self, width: int, padded: bool) -> "Family":
        raise self.refusal("model_width", "its configuration fixes it")

    def with_channels(self, factor: int, shrink: bool = False) -> "Family":
        raise self.refusal("channels", "its configuration fixes them")

    def with_image(self, img_size: int, patch: int, copies: int) -> "Family":
        raise self.refusal("tokens", "its configuration fixes its images")

    def with_context(self, factor: int) -> "tuple[Family, Step]":
        raise self.refusal("tokens", "it has neither patches nor a context of its own")

    def check(self) -> None:
        """Refuse a combination of sizes that the configuration cannot say."""

    def refusal(self, axis: str, why: str, instead: str = "") -> InputError:
        return InputError(f"{self.name} cannot change its {axis}: {why}" + (f"; {instead}" if instead else ""))

    def clone(self, config: Any) -> "Family":
        other = copy.copy(self)
        other.config = config
        return other


def on_meta(build: Any) -> nn.Module:
    with torch.device("meta"):
        return build()
