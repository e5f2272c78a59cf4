"""The layers of a trace, one an operation, each in the module that was being called. The rules write here."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import nn

from lamina.errors import InputError
from lamina.operators import elementwise_strides
from lamina.tracing import blame
from lamina.tracing.ledger import Ledger
from lamina.tracing.survey import Place, Survey
from lamina.tracing.values import META
from lamina.workload import Coverage, Device, Kind, Layer, Loops, Tensor, Unknown, Weight, replace

NOWHERE = "work outside the trace"  # what the coverage calls it
# Of one call of a module: a mixture of experts makes one an expert or a token, a loop may go on for ever.
CHOICES = 5_000  # by values that the trace made up
READS = 25_000  # of real values
FREE = ("view", "copy", "embedding")  # kinds that move data and compute nothing


@dataclass(slots=True, eq=False)
class Frame:
    """One call of a module that is under way, and how many layers it made itself."""

    place: Place
    call: int
    layers: int = 0
    choices: int = 0  # that depend on values


class Thread(threading.local):
    """Where each thread of the forward stands."""

    def __init__(self, root: Frame):
        self.stack = [root]
        self.differentiates = True  # whether it is outside of torch.no_grad()
        self.opened: list[Any] = []  # functions of torch whose Python is running
        self.transformed = False  # whether an operation goes through torch.vmap, torch.func.grad or their like


class Operation(NamedTuple):
    """A layer whose name is not known before its module has returned; tensors by their numbers."""

    frame: Frame
    kind: Kind
    op: str
    attributes: Mapping[str, Any]
    inputs: list[int]
    outputs: list[int]
    weights: tuple[Weight, ...]
    loops: tuple[Loops, ...]
    ops: Mapping[str, int]
    saved: tuple[int, ...]
    workspace: int


class Emitter:
    """What has been recorded so far. A rule asks `ledger` about its tensors, makes its result by `new`, and hands
    all of it to `emit`."""

    def __init__(self, module: Any, survey: Survey, ledger: Ledger, device: Device):
        self.ledger = ledger
        self.device: Device = device  # where eager execution is imagined, for what it keeps
        self.real = False  # whether the forward runs on values: then none need be made up
        self._places = dict(survey.places)
        self._root = Frame(Place("", type(module).__name__, False, module), 0)
        self.thread = Thread(self._root)
        self._calls: dict[str, int] = {}  # of each path, so far
        self.operations: list[Operation] = []
        self._counted, self._free = 0, 0
        self._unknown: list[tuple[int, str, Any, Any]] = []  # layer, operator, shapes in and out
        self._assumptions: dict[str, None] = {}

    # ---- where the forward is ---------------------------------------------------------------------------------------

    def enter(self, module: nn.Module) -> None:
        """A module is called."""
        place = self._places.get(id(module))
        if place is None:  # made or swapped in during the call
            kind = type(module).__name__
            path = f"{self.thread.stack[-1].place.path}.{kind}".lstrip(".")
            place = self._places[id(module)] = Place(path, kind, next(module.children(), None) is None, module)
        call = self._calls[place.path] = self._calls.get(place.path, -1) + 1
        self.thread.stack.append(Frame(place, call))

    def leave(self, module: nn.Module) -> None:
        """Its call is over, and so are calls inside whose end was never seen."""
        stack = self.thread.stack
        for depth in range(len(stack) - 1, 0, -1):
            if stack[depth].place.module is module:
                del stack[depth:]
                return

    def is_within(self) -> bool:
        """Whether this thread is in a call of a module."""
        return len(self.thread.stack) > 1

    def where(self, module: nn.Module | None = None) -> str:
        """`layer1.0.conv1 (Conv2d)`: a module that was called, or the one that is being called."""
        place = self._places.get(id(module)) or self.thread.stack[-1].place
        return f"{place.path or type(self._root.place.module).__name__} ({place.type})"

    def assume(self) -> None:
        """Note that a choice is made here which depends on values that the trace made up."""
        self._choose(CHOICES, "choices that depend on values, which a trace makes up; with values=True (--run) it has them")
        self.note("choices that depend on values take turns")

    def read(self) -> None:
        """Note that the forward reads a value, in a trace that has them."""
        self._choose(READS, "values read in one call: count one turn of its loop")

    def _choose(self, limit: int, what: str) -> None:
        frame = self.thread.stack[-1]
        frame.choices += 1
        if frame.choices > limit:
            raise InputError(f"{self.where()}: it may never end: {limit:,} {what}; at {blame.calling_line()}")

    def note(self, text: str) -> None:
        """Note what an operation is taken for."""
        self._assumptions[f"{self.where()}: {text}, at {blame.calling_line()}"] = None

    # ---- layers -----------------------------------------------------------------------------------------------------

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A result, which `emit` registers."""
        return torch.empty(shape, dtype=dtype, device=META)

    def elementwise(self, shape: tuple[int, ...], dtype: torch.dtype, *operands: torch.Tensor) -> torch.Tensor:
        """The same of an elementwise operation, which lies in memory as its operands lie."""
        if all([x.is_contiguous() for x in operands]):
            return torch.empty(shape, dtype=dtype, device=META)
        strides = elementwise_strides(shape, tuple([(tuple(x.shape), x.stride()) for x in operands]))
        return torch.empty_strided(shape, strides, dtype=dtype, device=META)

    def operand(self, tensor: torch.Tensor) -> int | str:
        """What a loop nest calls it: the number of a tensor, the name of a weight."""
        found = self.ledger.identify(tensor)
        return found.id if isinstance(found, Tensor) else found.names[0] if isinstance(found, Weight) else found

    def operands(self, input: torch.Tensor, weight: torch.Tensor, *others: torch.Tensor | None) -> tuple[int | str, ...]:
        """The operands of a nest whose output `emit` registers next; `others` are the operation's further inputs."""
        names = (self.operand(input), self.operand(weight))
        for other in others:
            if other is not None:
                self.ledger.identify(other)
        return (*names, len(self.ledger.tensors))

    def emit(
        self,
        kind: Kind,
        op: str,
        inputs: Iterable[torch.Tensor | None],
        output: torch.Tensor | Sequence[torch.Tensor],
        loops: tuple[Loops, ...] = (),
        ops: Mapping[str, int] | None = None,
        saved: Iterable[torch.Tensor | int] = (),
        attributes: Mapping[str, Any] | None = None,
        workspace: int = 0,
        operators: tuple[int, int] | None = None,
        detached: bool = False,
    ) -> Any:
        """Record one operation. `saved` are tensors kept for the backward pass (an int is so many bytes of a mask,
        indices or statistics), which happens only where a gradient flows: not through what is `detached`. `operators` are
        how many were counted and how many are free, if there is not one. Returns `output`."""
        thread, ledger = self.thread, self.ledger
        frame = thread.stack[-1]
        known = ledger.known
        found = [known.get(id(tensor)) or ledger.identify(tensor) for tensor in inputs if tensor is not None]
        read = [x for x in found if isinstance(x, Tensor)]
        weights = tuple([x for x in found if isinstance(x, Weight)])
        grad = any([x.requires_grad for x in read]) or any([w.trainable for w in weights])
        grad = grad and thread.differentiates and not detached
        results = (output,) if isinstance(output, torch.Tensor) else output
        written = [ledger.register(x, grad and (x.is_floating_point() or x.is_complex())) for x in results]
        kept = ledger.keep(saved) if any([x.requires_grad for x in written]) else ()
        if loops and results and results[0].is_complex():  # four real products make a complex one
            loops = tuple([replace(nest, times=4 * nest.times) for nest in loops])
        counted, free = operators or ((0, 1) if kind in FREE else (1, 0))
        self._counted += counted
        self._free += free
        frame.layers += 1
        numbers = [x.id for x in read], [x.id for x in written]
        self.operations.append(
            Operation(frame, kind, op, attributes or {}, *numbers, weights, loops, ops or {}, kept, workspace)
        )
        ledger.layer += 1
        return output

    def unknown(self, operators: Iterable[tuple[str, Any, Any]]) -> None:
        """Operators of the layer before that nobody knows: name, shapes in and out."""
        self._unknown += [(len(self.operations) - 1, *operator) for operator in operators]

    # ---- the record -------------------------------------------------------------------------------------------------

    def layers(self, tensors: Sequence[Tensor]) -> tuple[Layer, ...]:
        """The layers whole; `tensors` are the ledger's records."""
        return tuple(
            [
                Layer(
                    name,
                    x.frame.place.path,
                    x.frame.place.type,
                    x.frame.call,
                    x.kind,
                    x.op,
                    x.attributes,
                    tuple([tensors[i] for i in x.inputs]),
                    tuple([tensors[i] for i in x.outputs]),
                    x.weights,
                    x.loops,
                    x.ops,
                    x.saved,
                    x.workspace,
                )
                for name, x in zip(self._names(), self.operations, strict=True)
            ]
        )

    def coverage(self) -> Coverage:
        """What is unknown includes tensors that come from nowhere, each where it is used first."""
        nowhere = [(layer, NOWHERE, (), (shape,)) for layer, shape in self.ledger.nowhere]
        names = [*self._names(), "the output"] if self._unknown or nowhere else []
        unknown = [
            Unknown(op, names[layer], tuple(shapes_in), tuple(shapes_out))
            for layer, op, shapes_in, shapes_out in sorted((*self._unknown, *nowhere), key=itemgetter(0))
        ]
        return Coverage(self._counted, self._free, tuple(unknown))

    def assumptions(self) -> tuple[str, ...]:
        return tuple(self._assumptions)

    def _names(self) -> list[str]:
        """The module's path, if it is a leaf and did one thing in that call, else path/operator; what comes again is
        numbered."""
        seen: dict[str, int] = {}
        names = []
        for operation in self.operations:
            frame, place = operation.frame, operation.frame.place
            alone = place.leaf and frame.layers == 1
            base = place.path if alone else f"{place.path}/{operation.op}" if place.path else operation.op
            count = seen[base] = seen.get(base, -1) + 1
            names.append(f"{base}:{count}" if count else base)
        return names
