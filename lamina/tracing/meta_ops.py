"""An operation that has no rule: its ATen operators, seen by a `TorchDispatchMode` on the meta device.

Products are counted from shapes; arithmetic, copies and views are known by name; whatever is in neither table is listed
as unknown. All operators of one operation are one layer.
"""

from __future__ import annotations

import gc
import math
import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lamina.errors import InputError
from lamina.tracing import aten_shapes, state
from lamina.tracing.aten_kinds import classify
from lamina.tracing.values import SMALL, assume, is_assumed, mapped, tensors, unique
from lamina.workload import Kind, Loops, Weight

if TYPE_CHECKING:
    from lamina.tracing.tracer import Tracer

PRODUCTS: set[Kind] = {"linear", "matmul", "view", "copy"}  # products, and what lays out their factors
# What one operation made of several operators is called: the first of these that it contains.
ORDER: tuple[Kind, ...] = (
    "conv", "linear", "matmul", "softmax", "norm", "pool", "activation", "embedding", "elementwise", "other", "copy", "view"
)  # fmt: skip


class MetaOps(TorchDispatchMode):
    """Collects the operators of one operation, and the most bytes that its intermediate results need at once."""

    def __init__(self, tracer: Tracer, name: str):
        super().__init__()
        self.tracer, self.name = tracer, name
        self.kinds: list[Kind] = []
        self.loops: list[Loops] = []
        self.factors: list[Tensor | int] = []  # of products, as far as the backward pass needs them
        self.ops: dict[str, int] = {}
        self.free, self.counted = 0, 0
        self.inputs: dict[int, Tensor] = {}  # tensors from outside, by id
        self.changed: dict[int, Tensor] = {}  # those written in place
        self.inner: dict[int, weakref.ref[Tensor]] = {}  # results of the operators themselves
        self.storages: dict[int, int] = {}  # of these: how many tensors of it are alive
        self.alive, self.peak = 0, 0
        self.unknown: list[tuple[str, Any, Any]] = []
        self.last: Any = None  # the operator that ran last

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch wraps the method below, and its first call imports the compiler: a second

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        t, kwargs = self.tracer, kwargs or {}
        self.last = func
        rule = aten_shapes.RULES.get(func)
        if rule is None and _traits(func).composite:  # in inference mode they come as they are
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = list(tensors((args, kwargs)))
        name = func._overloadpacket.__name__
        mutable = func._schema.is_mutable
        on_meta = any(x.is_meta for x in given) or _is_large(t, given, args)
        if on_meta and not given:
            kwargs = {**kwargs, "device": "meta"}
        for x in given:
            if id(x) not in self.inner:
                self.inputs[id(x)] = x

        def stand_in(x: Tensor) -> Tensor:
            if x.is_meta:
                return x
            own = t.owner_of(x)
            wanted = isinstance(own, Weight) or (on_meta and x.dim() > 0) or (own is not None and (mutable or on_meta))
            return t.meta(x) if wanted or (t.stale and x.untyped_storage()._cdata in t.stale) else x

        args, kwargs = mapped((args, kwargs), stand_in)
        found = NotImplemented
        if rule is not None and any(x.is_meta for x in tensors((args, kwargs))):
            found = rule(t, *args, **kwargs)
        if found is NotImplemented:
            result = _run(self, func, args, kwargs, on_meta)
            found = (result, *classify(name, args, kwargs, result))
        result, kind, loops, ops = found
        if len(loops) == 1:
            a, b = (given if name in ("convolution", "mm", "bmm", "mv", "dot") else given[1:])[:2]
            loops = (replace(loops[0], operands=(self.operand(a), self.operand(b))),)
            self.factors += [self.origin(x) for x, other in ((a, b), (b, a)) if t.is_differentiable(self.origin(other))]
        if kind == "matmul" and any(self.is_weight(x) for x in given):
            kind = "linear"
        if kind == "other":
            self.unknown.append((str(func), [tuple(x.shape) for x in given], [tuple(x.shape) for x in tensors(result)]))
        elif kind in ("view", "copy", "embedding"):
            self.free += 1
        else:
            self.counted += 1
        self.kinds.append(kind)
        self.loops += loops
        for key, count in ops.items():
            self.ops[key] = self.ops.get(key, 0) + count
        originals = dict(zip(map(id, tensors((args, kwargs))), given, strict=True))  # of stand-ins too
        for x in tensors(result):
            original = originals.get(id(x))
            if original is None:
                self._made(x)
                continue
            self.changed[id(original)] = original
            if original is not x and not t.is_own(original):  # its values are no longer known
                t.stale.add(original.untyped_storage()._cdata)
                t.hold.append(original)
        return result

    def is_weight(self, x: Tensor) -> bool:
        """Whether it is one of the module's weights, or a view of one."""
        return self.tracer.is_weight(x)

    def operand(self, x: Tensor) -> int | str:
        """A factor of a product: a tensor or weight from outside (or a view of one), or an intermediate result."""
        if id(x) in self.inner:
            address = x.untyped_storage()._cdata
            for outside in self.inputs.values():
                if outside.untyped_storage()._cdata == address:
                    return self.tracer.operand(outside)
            weight = self.tracer.own_storage.get(address)
            return weight.names[0] if isinstance(weight, Weight) else "intermediate"
        return self.tracer.operand(x)

    def origin(self, x: Tensor) -> Tensor | int:
        """The tensor from outside that lies where `x` does, or the bytes of an intermediate result."""
        address = x.untyped_storage()._cdata
        found = [outside for outside in self.inputs.values() if outside.untyped_storage()._cdata == address]
        return found[0] if found else x if address in self.tracer.own_storage else x.numel() * x.element_size()

    def forget(self) -> None:
        """Let go of all tensors: the weak references' callbacks and this object hold each other."""
        self.factors.clear()
        self.inputs.clear()
        self.changed.clear()
        self.inner.clear()

    def _made(self, x: Tensor) -> None:
        key, address, size = id(x), x.untyped_storage()._cdata, x.untyped_storage().nbytes()
        inherited = address in self.tracer.storage_of or address in self.tracer.own_storage
        if key in self.inner:
            return

        def died(_: Any) -> None:
            self.inner.pop(key, None)
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


class Traits(NamedTuple):
    """What torch says of an operator."""

    composite: bool  # made of others
    random: bool
    reads: bool  # its result, or its result's shape, depends on values


_TRAITS: dict[Any, Traits] = {}


def _traits(func: Any) -> Traits:
    found = _TRAITS.get(func)
    if found is None:
        key, tags = torch._C.DispatchKey.CompositeImplicitAutograd, func.tags
        reads = torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
        found = _TRAITS[func] = Traits(composite, torch.Tag.nondeterministic_seeded in tags, reads)
    return found


def _is_large(t: Tracer, given: list[Tensor], args: tuple[Any, ...]) -> bool:
    """Whether an operator on real tensors would make so large a one that it goes to the meta device: a trace allocates
    nothing that is not small."""
    if not given:
        size = args[0] if args else ()
        return isinstance(size, (list, tuple)) and all(isinstance(n, int) for n in size) and math.prod(size) > SMALL
    shapes = [tuple(x.shape) for x in given if not t.is_own(x)]
    if any(math.prod(shape) > SMALL for shape in shapes):
        return True
    if len(shapes) > 1:
        axes = max(map(len, shapes))
        wide = [max((s[len(s) - 1 - i] for s in shapes if len(s) > i), default=1) for i in range(axes)]
        return math.prod(wide) > SMALL
    return False


def _run(mode: MetaOps, func: Any, args: Any, kwargs: Any, on_meta: bool) -> Any:
    """The operator itself, on the meta device or on small real tensors; random ones leave torch's generator alone."""
    if on_meta:
        return func(*args, **kwargs)
    traits = _traits(func)
    if traits.random and kwargs.get("generator") is None:
        before = torch.default_generator.get_state()
        try:
            result = func(*args, **kwargs)
        finally:
            torch.default_generator.set_state(before)
    else:
        result = func(*args, **kwargs)
    if any(is_assumed(x) for x in tensors((args, kwargs))):
        for x in tensors(result):
            assume(x)
        if traits.reads and mode.name != "one_hot":  # which reads them only to see that none is too large
            _note_assumption(mode.tracer)
    return result


def _note_assumption(t: Tracer) -> None:
    line = state.calling_line()
    t.assumptions[f"{t.where()}: choices that depend on values take turns, at {line}"] = None


READERS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__", "equal"}


def _needs(t: Tracer, func: Any, mode: MetaOps, error: Exception) -> InputError:
    """Why an operation cannot run on the meta device: it reads values, or nobody said what it does there."""
    name, line = getattr(func, "__name__", str(func)), state.calling_line()
    last = str(mode.last or func)
    at = f"; at {line}" if line else ""
    if name == "__bool__":
        why = "the value of a tensor decides the way, and a trace has shapes only"
    elif (
        name in READERS
        or name in ("nonzero", "where", "__getitem__", "unique", "masked_select")
        or (isinstance(mode.last, torch._ops.OpOverload) and _traits(mode.last).reads)
    ):
        why = f"{name.strip('_')} needs the value of a tensor, and a trace has shapes only"
    else:
        why = f"{last} has no meta (fake) kernel: describe it with lamina.register or torch.library.register_fake"
        return InputError(f"{t.where()}: {why}{at}")
    return InputError(f"{t.where()}: {why} (integer inputs on the CPU keep their values){at}")


def run(t: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation that has no rule, and record its operators as one layer."""
    name = getattr(func, "__name__", "operation").strip("_")
    mode = MetaOps(t, name)
    imported = len(sys.modules)
    try:
        with mode:
            result = func(*args, **kwargs)
        if len(sys.modules) != imported:  # a first call, whose imports leave cycles that keep tensors alive
            gc.collect()
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        real = any(x.dim() and not x.is_meta for x in tensors((args, kwargs)))
        if "device" in text.lower() and real and any(x.is_meta for x in tensors((args, kwargs))):
            mode.forget()
            return run(t, func, *mapped((args, kwargs), t.meta))  # it wants all of them in one place
        if not isinstance(error, InputError) and ("meta" in text.lower() or "fake impl" in text):
            mode.forget()
            raise _needs(t, func, mode, error) from error
        raise
    if getattr(func, "__name__", "") in READERS and any(is_assumed(x) for x in tensors((args, kwargs))):
        _note_assumption(t)
    if not mode.kinds:
        mode.forget()
        return result
    outputs = [x for x in unique(tensors(result)) if id(x) not in mode.inputs or id(x) in mode.changed]
    places = {x.untyped_storage()._cdata: x for x in reversed(mode.inputs.values())}  # a view was written: so was its base
    written = [places.get(x.untyped_storage()._cdata, x) if key in mode.inner else x for key, x in mode.changed.items()]
    outputs += [x for x in unique(written) if id(x) in mode.inputs and all(x is not y for y in outputs)]
    if any(id(x) in mode.changed and t.is_own(x) for x in outputs):
        return result  # a module updates its own buffer: not part of the network's arithmetic
    kind = "norm" if name in ("rms_norm", "instance_norm") else min(mode.kinds, key=ORDER.index)
    own_view = kind == "view" and len(outputs) == 1 and t.is_own(outputs[0])
    if own_view and any(x.numel() == outputs[0].numel() and t.is_own(x) for x in mode.inputs.values()):
        return result  # the whole weight in another form is that weight
    own = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in outputs}
    inherited = sum(size for address, size in own.items() if address in mode.storages)
    inputs = list(mode.inputs.values())
    for x in inputs:
        t.identify(x)
    nests = tuple(mode.loops)
    if len(nests) == 1:
        nests = (replace(nests[0], operands=(*nests[0].operands, len(t.tensors))),)
    # An operator of several products (attention) does not say what it keeps of them.
    known = PRODUCTS.issuperset(mode.kinds) and (mode.factors or not mode.loops)
    t.emit(
        kind,
        name,
        inputs,
        outputs,
        nests,
        mode.ops,
        saved=mode.factors if known else (*inputs, *outputs),
        workspace=max(0, mode.peak - inherited),
        operators=(mode.counted, mode.free),
    )
    mode.forget()
    t.unknown += [(len(t.layers) - 1, *operator) for operator in mode.unknown]
    return result
