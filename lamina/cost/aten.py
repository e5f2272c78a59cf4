"""What lies beneath an operation that has no rule: its ATen operators, seen by a `TorchDispatchMode` on the meta device.

Products are counted from shapes; arithmetic, copies and views are known by name; whatever is in neither table is listed
as unknown. All operators beneath one operation are one layer.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lamina.cost import formulas
from lamina.cost.formulas import ACTIVATION_OPS, times
from lamina.errors import InputError
from lamina.workload import Kind, Loops, Weight

if TYPE_CHECKING:
    from lamina.cost.trace import Tracer

aten = torch.ops.aten

# Operators by name (in-place and overloads alike): the arithmetic of one output element.
ELEMENTWISE: dict[str, dict[str, int]] = {
    **dict.fromkeys(("add", "sub", "rsub", "neg", "abs", "round", "floor", "ceil", "trunc", "sign"), {"add": 1}),
    **dict.fromkeys(("mul", "square", "addcmul"), {"mul": 1}),
    **dict.fromkeys(("div", "reciprocal", "remainder", "fmod", "floor_divide"), {"div": 1}),
    **dict.fromkeys(
        ("exp", "log", "log2", "log1p", "expm1", "sin", "cos", "tan", "erf", "atan2", "pow", "log_sigmoid_forward"), {"exp": 1}
    ),
    **dict.fromkeys(("sqrt", "rsqrt"), {"sqrt": 1}),
    **dict.fromkeys(
        ("maximum", "minimum", "clamp", "clamp_min", "clamp_max", "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge",
         "isnan", "isinf", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or",
         "bitwise_not", "bitwise_xor", "threshold", "tril", "triu"),
        {"compare": 1},
    ),
}  # fmt: skip
# Reductions: the arithmetic of one input element.
REDUCTIONS: dict[str, dict[str, int]] = {
    **dict.fromkeys(("sum", "mean", "cumsum"), {"add": 1}),
    **dict.fromkeys(("prod", "norm", "linalg_vector_norm", "cumprod"), {"mul": 1}),
    **dict.fromkeys(("var", "var_mean", "std"), {"add": 3, "mul": 1}),
    **dict.fromkeys(
        ("amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "sort", "topk", "argsort"), {"compare": 1}
    ),
    **dict.fromkeys(("logsumexp",), {"exp": 1, "add": 1}),
}
VIEWS = {
    "view", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view_as_complex",
    "view_as_real", "_reshape_alias", "chunk", "movedim", "real", "imag", "_conj", "lift",
}  # fmt: skip
COPIES = {
    "_to_copy", "arange", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "empty", "empty_like", "empty_strided",
    "fill", "flip", "full", "full_like", "gather", "index", "index_put", "index_select", "linspace", "new_empty", "new_full",
    "new_ones", "new_zeros", "ones", "ones_like", "pixel_shuffle", "reflection_pad2d", "repeat", "replication_pad2d", "roll",
    "scalar_tensor", "scatter", "slice_scatter", "stack", "eye", "zero", "zeros", "zeros_like", "upsample_nearest2d",
    "_local_scalar_dense", "repeat_interleave", "tile", "im2col", "randperm", "rand", "randn", "normal", "uniform",
    "bernoulli", "empty_permuted", "new_empty_strided", "triu_indices", "tril_indices", "nonzero", "col2im",
}  # fmt: skip
NORMS = {
    "native_batch_norm": True, "_native_batch_norm_legit": True, "_native_batch_norm_legit_no_training": False,
    "cudnn_batch_norm": True, "native_layer_norm": True, "native_group_norm": True, "_fused_rms_norm": True, "batch_norm": True,
}  # fmt: skip
POOLS = {
    "max_pool2d_with_indices": "compare", "max_pool3d_with_indices": "compare", "avg_pool2d": "add", "avg_pool3d": "add",
    "avg_pool1d": "add", "_adaptive_avg_pool2d": "add", "_adaptive_avg_pool3d": "add", "adaptive_max_pool2d": "compare",
}  # fmt: skip
# What one operation made of several operators is called: the first of these that it contains.
ORDER: tuple[Kind, ...] = (
    "conv", "linear", "matmul", "softmax", "norm", "pool", "activation", "embedding", "elementwise", "other", "copy", "view"
)  # fmt: skip


def _convolution(t: Tracer, x, w, bias, stride, padding, dilation, transposed, output_padding, groups):
    axes = w.dim() - 2
    stride, padding, dilation, extra = (formulas.per_axis(v, axes) for v in (stride, padding, dilation, output_padding))
    xs, ws = tuple(x.shape), tuple(w.shape)
    if transposed:
        shape, nest = formulas.transposed_convolution(xs, ws, stride, padding, extra, dilation, groups)
    else:
        shape, nest = formulas.convolution(xs, ws, stride, padding, dilation, groups)
    return t.new(shape, x.dtype), "conv", (nest,), {"add": math.prod(shape)} if bias is not None else {}


def _product(left: int, right: int) -> Callable[..., Any]:
    """mm, bmm and their adding forms; `left` and `right` are the places of the factors."""

    def product(t: Tracer, *args: Any, **_: Any) -> Any:
        a, b = tuple(args[left].shape), tuple(args[right].shape)
        shape, nest = formulas.matmul(a, b)
        ops = {"add": math.prod(shape)} if left else {}
        return t.new(shape, args[left].dtype), "matmul", (nest,), ops

    return product


def _index(t: Tracer, x: Tensor, indices: list[Tensor | None]) -> Any:
    places = [i for i, index in enumerate(indices) if index is not None]
    chosen = [index for index in indices if index is not None]
    if any(index.dtype == torch.bool for index in chosen):
        return NotImplemented
    wide = formulas.broadcast(*(tuple(index.shape) for index in chosen))
    rest = [size for i, size in enumerate(x.shape) if i not in places]
    start = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    return t.new((*rest[:start], *wide, *rest[start:]), x.dtype), "copy", (), {}


def _cat(t: Tracer, tensors: list[Tensor], dim: int = 0) -> Any:
    parts = [x for x in tensors if x.dim() != 1 or x.numel()]
    shape = list(parts[0].shape)
    shape[dim] = sum(x.shape[dim] for x in parts)
    return t.new(tuple(shape), parts[0].dtype), "copy", (), {}


def _pointwise(name: str) -> Callable[..., Any]:
    """Arithmetic on floating-point tensors of one type; anything else (promotion, comparisons) is left to torch."""

    def pointwise(t: Tracer, *args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor)]
        if len({x.dtype for x in tensors}) > 1 or not tensors[0].is_floating_point() or tensors[0].device.type != "meta":
            return NotImplemented
        shape = formulas.broadcast(*(tuple(x.shape) for x in tensors))
        return t.new(shape, tensors[0].dtype), "elementwise", (), times(ELEMENTWISE[name], math.prod(shape))

    return pointwise


def _reduction(name: str) -> Callable[..., Any]:
    def reduction(t: Tracer, x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        if kwargs or not x.is_floating_point() or x.device.type != "meta":
            return NotImplemented
        dims = range(x.dim()) if not dim else [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]
        kept = [1 if i in dims else size for i, size in enumerate(x.shape) if keepdim or i not in dims]
        out = t.new(tuple(kept), x.dtype)
        ops = times(REDUCTIONS[name], x.numel()) | ({"div": out.numel()} if name == "mean" else {})
        return out, "elementwise", (), ops

    return reduction


# Operators with a shape rule of their own: their meta kernels are written in Python and take a second to import.
RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.mm.default: _product(0, 1),
    aten.bmm.default: _product(0, 1),
    aten.mv.default: _product(0, 1),
    aten.dot.default: _product(0, 1),
    aten.addmm.default: _product(1, 2),
    aten.baddbmm.default: _product(1, 2),
    aten.addmv.default: _product(1, 2),
    aten.index.Tensor: _index,
    aten.cat.default: _cat,
    **{getattr(aten, name).Tensor: _pointwise(name) for name in ("add", "sub", "mul", "div")},
    **{
        getattr(aten, name).default: _pointwise(name)
        for name in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf")
    },
    aten.pow.Tensor_Scalar: _pointwise("pow"),
    aten.sum.dim_IntList: _reduction("sum"),
    aten.mean.dim: _reduction("mean"),
}


class Beneath(TorchDispatchMode):
    """Collects the operators of one operation, and the most bytes that its intermediate results need at once."""

    def __init__(self, tracer: Tracer):
        super().__init__()
        self.tracer = tracer
        self.kinds: list[Kind] = []
        self.loops: list[Loops] = []
        self.ops: dict[str, int] = {}
        self.free, self.counted = 0, 0
        self.inputs: dict[int, Tensor] = {}  # tensors from outside, by id
        self.changed: dict[int, Tensor] = {}  # those written in place
        self.inner: dict[int, weakref.ref[Tensor]] = {}  # results of the operators themselves
        self.storages: dict[int, int] = {}  # of these: how many tensors of it are alive
        self.alive, self.peak = 0, 0
        self.unknown: list[tuple[str, Any, Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch wraps the method below, and its first call imports the compiler: a second

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        t, kwargs = self.tracer, kwargs or {}
        given = list(_tensors((args, kwargs)))
        name = func._overloadpacket.__name__
        mutable = func._schema.is_mutable
        on_meta = any(x.device.type == "meta" for x in given)
        for x in given:
            if id(x) not in self.inner:
                self.inputs[id(x)] = x

        def stand_in(x: Tensor) -> Tensor:
            known = t.known.get(id(x))
            own = known is not None and not isinstance(known, int)
            wanted = isinstance(known, Weight) or (on_meta and x.dim() > 0) or (own and (mutable or on_meta))
            return t.meta(x) if wanted else x

        args, kwargs = _map((args, kwargs), stand_in)
        rule, found = RULES.get(func), NotImplemented
        if rule is not None:
            found = rule(t, *args, **kwargs)
        if found is NotImplemented:
            result = func(*args, **kwargs)
            found = (result, *classify(name, args, result))
        result, kind, loops, ops = found
        if len(loops) == 1:
            factors = tuple(
                self.operand(x) for x in (given if name in ("convolution", "mm", "bmm", "mv", "dot") else given[1:])[:2]
            )
            loops = (replace(loops[0], operands=factors),)
        if kind == "matmul" and any(self.is_weight(x) for x in given):
            kind = "linear"
        if kind == "other":
            self.unknown.append((str(func), [tuple(x.shape) for x in given], [tuple(x.shape) for x in _tensors(result)]))
        elif kind in ("view", "copy", "embedding"):
            self.free += 1
        else:
            self.counted += 1
        self.kinds.append(kind)
        self.loops += loops
        for key, count in ops.items():
            self.ops[key] = self.ops.get(key, 0) + count
        originals = dict(zip(map(id, _tensors((args, kwargs))), given, strict=True))  # of stand-ins too
        for x in _tensors(result):
            original = originals.get(id(x))
            if original is not None:
                self.changed[id(original)] = original
            else:
                self._made(x)
        return result

    def is_weight(self, x: Tensor) -> bool:
        """Whether it is one of the module's weights, or a view of one."""
        known = self.tracer.known.get(id(x)) if id(x) not in self.inner else None
        return isinstance(known, Weight) or x.untyped_storage()._cdata in self.tracer.weight_storage

    def operand(self, x: Tensor) -> int | str:
        """A factor of a product: a tensor or weight from outside (or a view of one), or an intermediate result."""
        if id(x) in self.inner:
            address = x.untyped_storage()._cdata
            for outside in self.inputs.values():
                if outside.untyped_storage()._cdata == address:
                    return self.tracer.operand(outside)
            weight = self.tracer.weight_storage.get(address)
            return weight.names[0] if weight else "intermediate"
        return self.tracer.operand(x)

    def forget(self) -> None:
        """Let go of all tensors: the weak references' callbacks and this object hold each other."""
        self.inputs.clear()
        self.changed.clear()
        self.inner.clear()

    def _made(self, x: Tensor) -> None:
        key, address, size = id(x), x.untyped_storage()._cdata, x.untyped_storage().nbytes()
        inherited = address in self.tracer.storage_of or address in self.tracer.weight_storage
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


def classify(name: str, args: Any, result: Any) -> tuple[Kind, tuple[Loops, ...], dict[str, int]]:
    """Kind, loops and other arithmetic of an operator that is known by name; kind "other" is unknown."""
    name = name.removesuffix("_") if not name.endswith("__") else name
    outputs = list(_tensors(result))
    elements = outputs[0].numel() if outputs else 0
    first = next(iter(_tensors(args)), None)
    size = first.numel() if first is not None else 0
    if "scaled_dot_product" in name:
        q, k, v = (tuple(x.shape) for x in args[:3])
        _, nests = formulas.attention(q, k, v)
        return "matmul", nests, formulas.softmax_ops(math.prod(q[:-1]) * k[-2], math.prod(q[:-1]))
    if name in ACTIVATION_OPS:
        return "activation", (), times(ACTIVATION_OPS[name], elements)
    if name in ELEMENTWISE:
        return "elementwise", (), times(ELEMENTWISE[name], elements)
    if name in REDUCTIONS:
        ops = times(REDUCTIONS[name], size)
        return "elementwise", (), ops | ({"div": elements} if name in ("mean", "var", "var_mean", "std") else {})
    if name in ("_softmax", "_log_softmax", "_safe_softmax"):
        rows = size // max(1, args[0].shape[args[1]] if args[0].dim() else 1)
        return "softmax", (), formulas.softmax_ops(size, rows)
    if name in NORMS:
        statistics = outputs[1].numel() if len(outputs) > 1 and outputs[1].numel() else args[0].shape[1]
        return "norm", (), formulas.normalisation_ops(size, statistics, NORMS[name], True)
    if name in POOLS:
        return "pool", (), {POOLS[name]: max(size - elements, 0)}
    if name in ("native_dropout", "dropout"):
        return "elementwise", (), {"mul": size, "compare": size}
    if name in ("embedding", "embedding_renorm", "_embedding_bag"):
        return "embedding", (), {}
    if name in VIEWS:
        return "view", (), {}
    if name in COPIES:
        return "copy", (), {}
    return "other", (), {}


def beneath(t: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation that has no rule, and record what lies beneath it as one layer."""
    mode = Beneath(t)
    try:
        with mode:
            result = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        text = str(error).splitlines()[0]
        if "meta" in text.lower():
            name = getattr(func, "__name__", str(func))
            raise InputError(f"{t.where()}: {name} needs values, and a trace has shapes only ({text})") from error
        raise
    if not mode.kinds:
        mode.forget()
        return result
    outputs = [x for x in _unique(_tensors(result)) if id(x) not in mode.inputs or id(x) in mode.changed]
    outputs += [x for key, x in mode.changed.items() if key in mode.inputs and all(x is not y for y in outputs)]
    if any(t.is_own(x) for x in outputs):
        return result  # a module updates its own buffer: not part of the network's arithmetic
    kind = min(mode.kinds, key=ORDER.index)
    own = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in outputs}
    inherited = sum(size for address, size in own.items() if address in mode.storages)
    name = getattr(func, "__name__", "operation").strip("_")
    inputs = list(mode.inputs.values())
    for x in inputs:
        t.identify(x)
    nests = tuple(mode.loops)
    if len(nests) == 1:
        nests = (replace(nests[0], operands=(*nests[0].operands, len(t.tensors))),)
    t.emit(
        kind,
        name,
        inputs,
        outputs,
        nests,
        mode.ops,
        saved=() if kind in ("view", "copy") else (*inputs, *outputs),
        workspace=max(0, mode.peak - inherited),
        operators=(mode.counted, mode.free),
    )
    mode.forget()
    t.unknown += [(len(t.layers) - 1, *operator) for operator in mode.unknown]
    return result


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_map(v, function) for v in value])
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    return value


def _unique(values: Iterable[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in values}.values())
