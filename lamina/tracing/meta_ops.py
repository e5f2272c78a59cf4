"""An operation that has no rule: its ATen operators, seen by a dispatch mode on the meta device.

Products are counted from shapes; arithmetic, copies and views are known by name; whatever is in neither table is listed
as unknown. All operators of one operation are one layer.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lamina.errors import InputError
from lamina.tracing import aten_shapes, blame, private, refusals, values
from lamina.tracing.aten_kinds import classify
from lamina.tracing.emitter import Emitter
from lamina.tracing.kept import kept
from lamina.tracing.refusals import NeedsValues
from lamina.tracing.values import is_assumed, tensors, unique
from lamina.workload import Kind, Loops, Weight, replace

# What one operation made of several operators is called: the first of these that it contains.
ORDER: tuple[Kind, ...] = (
    "conv", "linear", "matmul", "softmax", "norm", "pool", "activation", "embedding", "elementwise", "other", "copy", "view"
)  # fmt: skip
# Operators whose first two tensors are the factors; others have what they add to before them.
FACTORS_FIRST = {"convolution", "deform_conv2d", "_convolution", "mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_grouped_mm"}
# Operators that take a tensor's shape and type only, or its values alone.
WITHOUT_GRADIENT = {
    "detach", "empty_like", "full_like", "ones_like", "zeros_like", "rand_like", "randn_like", "randint_like", "new_empty",
    "new_empty_strided", "new_full", "new_ones", "new_zeros", "_new_zeros_with_same_feature_meta",
}  # fmt: skip
# Methods whose result is the value of a tensor, and functions whose result's shape is.
READERS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__", "equal"}
CHOOSERS = {"nonzero", "where", "__getitem__", "unique", "masked_select"}


def run(t: Emitter, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation that has no rule, and record its operators as one layer."""
    name = getattr(getattr(func, "overloadpacket", func), "__name__", "operation")
    given = tensors((args, kwargs))
    refusals.check_layout(t, name, given)
    mode = MetaOps(t, name.strip("_"), given)
    if getattr(func, "__name__", "") in READERS:  # some of them read the memory itself
        args, kwargs = private.tree_map_only(Tensor, t.ledger.current, (args, kwargs))
    try:
        result = _watched(mode, func, args, kwargs)
        if getattr(func, "__name__", "") in READERS and any(map(is_assumed, tensors((args, kwargs)))):
            t.assume()
        if any(x.is_meta for x in given):
            refusals.check_layout(t, name, tensors(result))
        if mode.kinds:
            _record(t, mode, result, _saved(t, mode, func, args, kwargs, result))
        return result
    finally:
        mode.forget()


def _watched(mode: MetaOps, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        with mode:
            return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        text, given = str(error), tensors((args, kwargs))
        mixed = any(x.is_meta for x in given) and any(x.dim() and not x.is_meta for x in given)
        if mixed and "device" in text.lower():  # it wants all of them in one place
            mode.start()
            args, kwargs = private.tree_map_only(Tensor, mode.t.ledger.meta, (args, kwargs))
            return _watched(mode, func, args, kwargs)
        if not isinstance(error, InputError) and ("meta" in text.lower() or "fake impl" in text):
            raise _needs_values(mode, func) from error
        raise


def _needs_values(mode: MetaOps, func: Any) -> NeedsValues:
    """Why an operation cannot run on the meta device: it reads values, or nobody said what it does there."""
    name, line, where = getattr(func, "__name__", str(func)), blame.calling_line(), mode.t.where()
    at = f"; at {line}" if line else ""
    reads = isinstance(mode.last, private.Operator) and _traits(mode.last).reads
    layout = next((kind for kind in refusals.LAYOUTS if kind in str(mode.last or func)), None)
    if layout:
        return NeedsValues(refusals.of_layout(mode.t, name, layout))
    if name == "__bool__":
        why = "the value of a tensor decides the way"
    elif name in READERS or name in CHOOSERS or reads:
        why = f"{name.strip('_')} needs the value of a tensor"
    else:
        why = f"{mode.last or func} has no meta (fake) kernel: describe it with lamina.register or torch.library.register_fake"
        return NeedsValues(f"{where}: {why}{at}")
    return NeedsValues(
        f"{where}: {why}, and a trace has shapes only; integer inputs on the CPU keep theirs, "
        f"and with values=True (--run) all do{at}"
    )


# ---- the operators of one operation ----------------------------------------------------------------------------------


class Traits(NamedTuple):
    """What torch says of an operator."""

    composite: bool  # made of others
    random: bool
    reads: bool  # its result, or its result's shape, depends on values
    writes: bool  # it changes an argument


@cache
def _traits(func: Any) -> Traits:
    reads = torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
    random = torch.Tag.nondeterministic_seeded in func.tags
    return Traits(private.is_composite(func), random, reads, private.writes(func))


class MetaOps(private.DispatchMode):
    """Collects the operators of one operation, and the most bytes that its intermediate results need at once."""

    def __init__(self, t: Emitter, name: str, given: list[Tensor]):
        super().__init__()
        self.t, self.name = t, name
        self.given = set(map(id, given))  # the operands
        self.start()

    def start(self) -> None:
        self.kinds: list[Kind] = []
        self.loops: list[Loops] = []
        self.ops: dict[str, int] = {}
        self.free, self.counted = 0, 0
        self.flows = False  # whether a gradient flows through any of them
        self.unknown: list[tuple[str, Any, Any]] = []
        self.last: Any = None  # the operator that ran last
        self.inputs: dict[int, Tensor] = {}  # tensors from outside, by id
        self.lent: set[int] = set()  # where these lie, by address
        self.changed: dict[int, Tensor] = {}  # those written in place
        self.inner: dict[int, weakref.ref[Tensor]] = {}  # results of the operators themselves
        self.constant: set[int] = set()  # those of them that no gradient flows to, by id
        self.storages: dict[int, int] = {}  # of these, by address: how many tensors of it are alive
        self.alive, self.peak = 0, 0  # bytes

    def forget(self) -> None:
        """Let go of all tensors: the weak references' callbacks and this object hold each other."""
        self.inputs.clear()
        self.lent.clear()
        self.changed.clear()
        self.inner.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.last = func
        rule = aten_shapes.RULES.get(func)
        if rule is None and _traits(func).composite:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        leaves, tree = private.tree_flatten((args, kwargs))
        given = [x for x in leaves if isinstance(x, Tensor)]
        self._lend([x for x in given if id(x) not in self.inner])
        written = {id(x): x for x in private.written(func, args, kwargs)} if _traits(func).writes else {}
        on_meta = self._is_on_meta(given, args) or any(map(self._is_large_outside, written.values()))
        moved = {id(x): self._moved(x, id(x) in written, on_meta) for x in given}
        args, kwargs = private.tree_unflatten([moved[id(x)] if isinstance(x, Tensor) else x for x in leaves], tree)
        if on_meta and not given:
            kwargs = {**kwargs, "device": "meta"}
        found = NotImplemented
        if rule is not None and any(x.is_meta for x in moved.values()):
            found = rule(self.t, *args, **kwargs)
        if found is NotImplemented:
            result = self._run(func, args, kwargs, on_meta)
            if func in aten_shapes.COUNTED:
                _, kind, loops, ops = aten_shapes.COUNTED[func](self.t, *args, **kwargs)
            else:
                kind, loops, ops = classify(func.overloadpacket.__name__, args, kwargs, result)
        else:
            result, kind, loops, ops = found
        self._count(func, given, result, kind, loops, ops)
        originals = {id(moved[id(x)]): x for x in given}
        self._note(result, originals, not any(map(self._is_differentiable, given)))
        return self._written(result, moved, written, originals) if written else result

    def _lend(self, given: list[Tensor]) -> None:
        """Note tensors from outside of the operation."""
        for x in given:
            if id(x) not in self.inputs:
                if id(x) not in self.given:
                    self.t.ledger.enter_constant(x)
                self.inputs[id(x)] = x
                self.lent.add(self.t.ledger.address(x))

    # ---- where it runs: this alone decides who keeps values -----------------------------------------------------------

    def _is_on_meta(self, given: list[Tensor], args: tuple[Any, ...]) -> bool:
        """Whether it runs on the meta device, as one of its tensors does, or because its result is large."""
        ledger = self.t.ledger
        if given:
            foreign = [x.shape for x in given if not ledger.is_own(x)]
            unknown = any(x.is_meta or ledger.is_weight(x) or ledger.is_overwritten(x) for x in given)
            return unknown or values.is_large(foreign)
        size = args[0] if args else ()
        return isinstance(size, (list, tuple)) and all(isinstance(n, int) for n in size) and values.is_large([size])

    def _is_outside(self, x: Tensor) -> bool:
        """Whether it lies in memory that neither the trace nor this operation has made."""
        return not x.is_meta and self.t.ledger.address(x) not in self.storages and self.t.ledger.is_outside(x)

    def _is_large_outside(self, x: Tensor) -> bool:
        """Whether writing to it would copy more than a trace allocates."""
        return self._is_outside(x) and x.untyped_storage().nbytes() > x.element_size() * values.SMALL

    def _moved(self, x: Tensor, written: bool, on_meta: bool) -> Tensor:
        """What the operator gets for a tensor: on the meta device a stand-in for all but numbers, always one for weights; and
        a copy of what it would write to if the trace has not made that."""
        if x.is_meta:
            return x
        owner = self.t.ledger.owner(x)
        if isinstance(owner, Weight) or (on_meta and (x.dim() > 0 or owner is not None or written)):
            return self.t.ledger.meta(x)
        if written and self._is_outside(x):
            self.t.ledger.copy(x)
        return self.t.ledger.current(x)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], on_meta: bool) -> Any:
        """The operator itself, on the meta device or on small real tensors; what is random leaves torch's generator alone."""
        if on_meta:
            return func(*args, **kwargs)
        traits = _traits(func)
        with values.same_seed() if traits.random and kwargs.get("generator") is None else nullcontext():
            result = func(*args, **kwargs)
        if any(map(is_assumed, tensors((args, kwargs)))):
            for x in tensors(result):
                values.assume(x)
            if traits.reads and self.name != "one_hot":  # which reads them only to see that none is too large
                self.t.assume()
        return result

    # ---- what it costs ------------------------------------------------------------------------------------------------

    def _count(
        self, func: Any, given: list[Tensor], result: Any, kind: Kind, loops: tuple[Loops, ...], ops: Mapping[str, int]
    ) -> None:
        t, name = self.t, func.overloadpacket.__name__
        if len(loops) == 1 and not loops[0].operands:
            a, b = (given if name in FACTORS_FIRST else given[1:])[:2]
            loops = (replace(loops[0], operands=(self._operand(a), self._operand(b))),)
        if kind == "matmul" and t.ledger.is_weight(*given):
            kind = "linear"
        if kind == "other":
            self.unknown.append((str(func), [tuple(x.shape) for x in given], [tuple(x.shape) for x in tensors(result)]))
        elif kind in ("view", "copy", "embedding"):
            self.free += 1
        else:
            self.counted += 1
        self.kinds.append(kind)
        self.flows = self.flows or name not in WITHOUT_GRADIENT
        self.loops += loops
        for key, count in ops.items():
            self.ops[key] = self.ops.get(key, 0) + count

    def _operand(self, x: Tensor) -> int | str:
        """A factor of a product: a tensor or weight from outside (or a view of one), or an intermediate result."""
        if id(x) not in self.inner:
            return self.t.operand(x)
        outside = self._outside(x)
        if outside is not None:
            return self.t.operand(outside)
        owner = self.t.ledger.owner(x)
        return owner.names[0] if isinstance(owner, Weight) else "buffer" if id(x) in self.constant else "intermediate"

    def _is_differentiable(self, x: Tensor) -> bool:
        if id(x) not in self.inner:
            return self.t.ledger.is_differentiable(x)
        outside = self._outside(x)
        return id(x) not in self.constant if outside is None else self.t.ledger.is_differentiable(outside)

    def _outside(self, x: Tensor) -> Tensor | None:
        address = self.t.ledger.address(x)
        return next((outside for outside in self.inputs.values() if self.t.ledger.address(outside) == address), None)

    # ---- what it leaves -----------------------------------------------------------------------------------------------

    def _note(self, result: Any, originals: dict[int, Tensor], constant: bool) -> None:
        """Its results: new ones, or arguments that it wrote to (`originals` by the `id` of what it got for them)."""
        for x in tensors(result):
            original = originals.get(id(x))
            if original is None:
                self._note_new(x)
                if constant:
                    self.constant.add(id(x))
            else:
                self.constant.discard(id(original))
                self.changed[id(original)] = original

    def _written(self, result: Any, moved: dict[int, Tensor], written: dict[int, Tensor], originals: dict[int, Tensor]) -> Any:
        """The result of an operator that writes: the arguments themselves, not what stood in for them."""
        for key, x in written.items():
            self.t.ledger.note_written(x, moved[key])

        def itself(x: Tensor) -> Tensor:
            original = originals.get(id(x), x)
            return original if original.shape == x.shape else x

        return private.tree_map_only(Tensor, itself, result)

    def _note_new(self, x: Tensor) -> None:
        key, address, size = id(x), self.t.ledger.address(x), private.memory(x)
        if key in self.inner:
            return
        inherited = address in self.lent or self.t.ledger.is_allocated(x)

        def died(_: Any) -> None:
            self.inner.pop(key, None)
            self.constant.discard(key)
            if not inherited:
                self.storages[address] -= 1
                if self.storages[address] == 0:
                    del self.storages[address]
                    self.alive -= size

        self.inner[key] = weakref.ref(x, died)
        if not inherited:
            if address not in self.storages:
                self.alive += size
                self.peak = max(self.peak, self.alive)
            self.storages[address] = self.storages.get(address, 0) + 1


# ---- the layer -------------------------------------------------------------------------------------------------------


def _saved(t: Emitter, mode: MetaOps, func: Any, args: Any, kwargs: Any, result: Any) -> list[Tensor | int]:
    """What the operation keeps for the backward pass, if a gradient flows: where torch does not say, all that it has."""
    given = tensors((args, kwargs))
    if not t.thread.differentiates or set(mode.kinds) == {"view"} or not any(map(t.ledger.is_differentiable, given)):
        return []
    found = kept(t, func, args, kwargs, result, bool(mode.changed))
    return [*given, *tensors(result)] if found is None else found


def _record(t: Emitter, mode: MetaOps, result: Any, saved: list[Tensor | int]) -> None:
    outputs = _outputs(mode, result)
    if any(map(t.ledger.is_own, _written(mode))):
        return  # a module updates its own buffer: not part of the network's arithmetic
    kind = "norm" if mode.name in ("rms_norm", "instance_norm") else min(mode.kinds, key=ORDER.index)
    inputs = list(mode.inputs.values())
    if kind == "view" and len(outputs) == 1 and t.ledger.is_own(outputs[0]):
        whole = outputs[0].numel()
        if any(x.numel() == whole for x in inputs if t.ledger.is_own(x)):  # a weight in another form is that weight
            return
    for x in inputs:
        t.ledger.identify(x)
    nests = tuple(mode.loops)
    if len(nests) == 1:
        nests = (replace(nests[0], operands=(*nests[0].operands[:2], len(t.ledger.tensors))),)
    memory = {mode.t.ledger.address(x): private.memory(x) for x in outputs}
    kept = sum(size for address, size in memory.items() if address in mode.storages)
    t.emit(
        kind,
        mode.name,
        inputs,
        outputs,
        nests,
        mode.ops,
        saved=saved,
        workspace=max(0, mode.peak - kept),
        operators=(mode.counted, mode.free),
        detached=not mode.flows,
    )
    t.unknown(mode.unknown)


def _outputs(mode: MetaOps, result: Any) -> list[Tensor]:
    """What the operation returns that is new, and what it wrote to."""
    outputs = [x for x in unique(tensors(result)) if id(x) not in mode.inputs or id(x) in mode.changed]
    return outputs + [x for x in _written(mode) if all(x is not y for y in outputs)]


def _written(mode: MetaOps) -> list[Tensor]:
    """What it wrote to of what it was given: where it wrote to a view that it made, the view's base."""
    address = mode.t.ledger.address
    places = {address(x): x for x in reversed(mode.inputs.values())}
    written = [places.get(address(x), x) if key in mode.inner else x for key, x in mode.changed.items()]
    return [x for x in unique(written) if id(x) in mode.inputs]
