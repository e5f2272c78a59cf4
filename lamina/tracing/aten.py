"""What lies beneath an operation that has no rule: its ATen operators, seen by a `TorchDispatchMode` on the meta device.

Products are counted from shapes; arithmetic, copies and views are known by name; whatever is in neither table is listed
as unknown. All operators beneath one operation are one layer.
"""

from __future__ import annotations

import gc
import math
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lamina import operators
from lamina.errors import InputError
from lamina.operators import ACTIVATION_OPS, ELEMENTWISE, REDUCTIONS, times
from lamina.tracing import state
from lamina.workload import Kind, Loops, Weight

if TYPE_CHECKING:
    from lamina.tracing.tracer import Tracer

aten = torch.ops.aten

VIEWS = {
    "view", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view_as_complex",
    "view_as_real", "_reshape_alias", "chunk", "movedim", "real", "imag", "_conj", "lift", "_neg_view", "resolve_conj",
    "resolve_neg", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "set", "_shape_as_tensor",
    "_linalg_check_errors", "_assert_async", "_assert_scalar", "_assert_tensor_metadata",
}  # fmt: skip
COPIES = {
    "_to_copy", "arange", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "empty", "empty_like", "empty_strided",
    "fill", "flip", "full", "full_like", "gather", "index", "index_put", "index_select", "linspace", "new_empty", "new_full",
    "new_ones", "new_zeros", "ones", "ones_like", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "repeat", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll", "scalar_tensor",
    "scatter", "slice_scatter", "select_scatter", "diagonal_scatter", "stack", "eye", "zero", "zeros", "zeros_like",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_local_scalar_dense", "repeat_interleave", "tile", "im2col",
    "randperm", "rand", "randn", "rand_like", "randn_like", "randint", "randint_like", "random", "normal", "uniform",
    "exponential", "multinomial", "bernoulli", "empty_permuted", "new_empty_strided", "triu_indices", "tril_indices",
    "nonzero", "nonzero_static", "col2im", "index_copy", "index_fill", "_index_put_impl", "_unsafe_index", "_unsafe_index_put",
    "masked_select", "masked_scatter", "take", "put", "diag_embed", "complex", "native_channel_shuffle", "channel_shuffle",
    "rot90", "max_unpool2d", "max_unpool3d", "_pack_padded_sequence", "logspace", "lift_fresh_copy", "fill_diagonal",
    "block_diag", "hann_window", "_efficientzerotensor", "resize",
}  # fmt: skip
SCATTERED = {"index_add", "scatter_add", "scatter_reduce", "index_reduce", "_embedding_bag", "_embedding_bag_forward_only"}
NORMS = {
    "native_batch_norm": True, "_native_batch_norm_legit": True, "_native_batch_norm_legit_no_training": False,
    "cudnn_batch_norm": True, "native_layer_norm": True, "native_group_norm": True, "_fused_rms_norm": True, "batch_norm": True,
    "_batch_norm_with_update": True, "_batch_norm_no_update": False,
}  # fmt: skip
POOLS = {
    "max_pool2d_with_indices": "compare", "max_pool3d_with_indices": "compare", "avg_pool2d": "add", "avg_pool3d": "add",
    "avg_pool1d": "add", "_adaptive_avg_pool2d": "add", "_adaptive_avg_pool3d": "add", "adaptive_max_pool2d": "compare",
    "adaptive_max_pool3d": "compare", "fractional_max_pool2d": "compare", "fractional_max_pool3d": "compare",
}  # fmt: skip
# Interpolation: the values that one output is made of.
TAPS = {
    "upsample_linear1d": 2, "upsample_bilinear2d": 4, "upsample_trilinear3d": 8, "upsample_bicubic2d": 16,
    "grid_sampler_2d": 4, "grid_sampler_3d": 8,
}  # fmt: skip
PRODUCTS: set[Kind] = {"linear", "matmul", "view", "copy"}  # products, and what lays out their factors
# What one operation made of several operators is called: the first of these that it contains.
ORDER: tuple[Kind, ...] = (
    "conv", "linear", "matmul", "softmax", "norm", "pool", "activation", "embedding", "elementwise", "other", "copy", "view"
)  # fmt: skip


def _convolution(t: Tracer, x, w, bias, stride, padding, dilation, transposed, output_padding, groups):
    axes = w.dim() - 2
    stride, padding, dilation, extra = (operators.per_axis(v, axes) for v in (stride, padding, dilation, output_padding))
    xs, ws = tuple(x.shape), tuple(w.shape)
    if transposed:
        shape, nest = operators.transposed_convolution(xs, ws, stride, padding, extra, dilation, groups)
    else:
        shape, nest = operators.convolution(xs, ws, stride, padding, dilation, groups)
    return t.new(shape, x.dtype), "conv", (nest,), {"add": math.prod(shape)} if bias is not None else {}


def _product(left: int, right: int) -> Callable[..., Any]:
    """mm, bmm and their adding forms; `left` and `right` are the places of the factors."""

    def product(t: Tracer, *args: Any, **_: Any) -> Any:
        a, b = tuple(args[left].shape), tuple(args[right].shape)
        shape, nest = operators.matmul(a, b)
        ops = {"add": math.prod(shape)} if left else {}
        return t.new(shape, args[left].dtype), "matmul", (nest,), ops

    return product


def _adding_batches(t: Tracer, base: Tensor, a: Tensor, b: Tensor, **_: Any) -> Any:
    """addbmm: the products of a batch, summed."""
    (groups, rows, inner), columns = a.shape, b.shape[2]
    nest = operators.Loops(N=rows, M=columns, C=groups * inner)
    return t.new((rows, columns), a.dtype), "matmul", (nest,), {"add": rows * columns}


def _grouped(t: Tracer, a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, **options: Any) -> Any:
    """_grouped_mm: products of uneven groups, as a mixture of experts makes them. Where the groups divide the rows, the
    inner axis or the columns, their sum is that of the whole axis."""
    x, w = tuple(a.shape), tuple(b.shape)
    if x[-1] != w[-2]:
        raise operators.ShapeError(f"cannot multiply {x} by {w} in groups")
    groups = offs.shape[0] if offs is not None else 1
    shape = (x[-2], w[-1]) if len(x) != len(w) else (groups if len(x) == 2 else x[0], x[-2], w[-1])
    nest = operators.Loops(N=x[-2], G=x[0] if len(x) == len(w) == 3 else 1, M=w[-1], C=x[-1])
    return t.new(shape, options.get("out_dtype") or a.dtype), "matmul", (nest,), {}


def _index(t: Tracer, x: Tensor, indices: list[Tensor | None]) -> Any:
    places = [i for i, index in enumerate(indices) if index is not None]
    chosen = [index for index in indices if index is not None]
    if any(index.dtype == torch.bool for index in chosen):
        return NotImplemented
    wide = operators.broadcast(*(tuple(index.shape) for index in chosen))
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
        shape = operators.broadcast(*(tuple(x.shape) for x in tensors))
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


def _random_like(t: Tracer, x: Tensor, *, dtype: Any = None, **_: Any) -> Any:
    return t.new(tuple(x.shape), dtype or x.dtype), "copy", (), {}


def _filled(t: Tracer, x: Tensor, *_: Any, **__: Any) -> Any:
    return x, "copy", (), {}


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
    aten.addbmm.default: _adding_batches,
    aten._grouped_mm.default: _grouped,
    aten.index.Tensor: _index,
    aten.cat.default: _cat,
    **{getattr(aten, name).Tensor: _pointwise(name) for name in ("add", "sub", "mul", "div")},
    **{
        getattr(aten, name).default: _pointwise(name)
        for name in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf")
    },
    aten.pow.Tensor_Scalar: _pointwise("pow"),
    aten.sum.dim_IntList: _reduction("sum"),
    aten.rand_like.default: _random_like,
    aten.randn_like.default: _random_like,
    aten.normal_.default: _filled,
    aten.uniform_.default: _filled,
    aten.bernoulli_.float: _filled,
    aten.exponential_.default: _filled,
    aten.mean.dim: _reduction("mean"),
}


class Beneath(TorchDispatchMode):
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
        rule = RULES.get(func)
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
            found = (result, *classify(name, args, result))
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


def classify(name: str, args: Any, result: Any) -> tuple[Kind, tuple[Loops, ...], dict[str, int]]:
    """Kind, loops and other arithmetic of an operator that is known by name; kind "other" is unknown."""
    name = name.removesuffix("_") if not name.endswith("__") else name
    outputs = list(tensors(result))
    elements = outputs[0].numel() if outputs else 0
    given = [tuple(x.shape) for x in tensors(args)]
    size = math.prod(given[0]) if given else 0
    if "scaled_dot_product" in name:
        q, k, v = (tuple(x.shape) for x in args[:3])
        _, nests = operators.attention(q, k, v)
        return "matmul", nests, operators.softmax_ops(math.prod(q[:-1]) * k[-2], math.prod(q[:-1]))
    if name in ACTIVATION_OPS:
        return "activation", (), times(ACTIVATION_OPS[name], elements)
    if name in ELEMENTWISE:
        return "elementwise", (), times(ELEMENTWISE[name], elements)
    if name in REDUCTIONS:
        ops = times(REDUCTIONS[name], size)
        return "elementwise", (), ops | ({"div": elements} if name in ("mean", "var", "var_mean", "std") else {})
    if name in ("_softmax", "_log_softmax", "_safe_softmax"):
        rows = size // max(1, args[0].shape[args[1]] if args[0].dim() else 1)
        return "softmax", (), operators.softmax_ops(size, rows)
    if name in NORMS:
        statistics = outputs[1].numel() if len(outputs) > 1 and outputs[1].numel() else args[0].shape[1]
        return "norm", (), operators.normalisation_ops(size, statistics, NORMS[name], True)
    if name in POOLS:
        axes = 0 if "adaptive" in name else int(next(c for c in name if c.isdigit()))
        window = math.prod(operators.per_axis(args[1], axes)) if axes and "fractional" not in name else 0
        return "pool", (), {POOLS[name]: elements * (window - 1) if window else max(size - elements, 0)}
    if name in TAPS:
        return "elementwise", (), {"mul": TAPS[name] * elements, "add": (TAPS[name] - 1) * elements}
    if name in ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):  # the window grows as the picture shrinks
        reach = 2 if "bicubic" in name else 1
        taps = [2 * math.ceil(reach * max(1, n / m)) + 1 for n, m in zip(given[0][-2:], outputs[0].shape[-2:], strict=True)]
        return "elementwise", (), {"mul": sum(taps) * elements, "add": sum(taps) * elements}
    if name in ("_fft_c2c", "_fft_r2c", "_fft_c2r"):
        return "elementwise", (), _fft_ops(max(size, elements), [max(given[0][d], outputs[0].shape[d]) for d in args[1]])
    if name in ("_cdist_forward", "_pdist_forward"):
        return "elementwise", (), {"add": 2 * elements * given[0][-1], "mul": elements * given[0][-1]}
    if name in SCATTERED:
        return "embedding" if "embedding" in name else "elementwise", (), {"add": max(x.numel() for x in tensors(args))}
    if name in ("native_dropout", "dropout"):
        return "elementwise", (), {"mul": size, "compare": size}
    if name in ("embedding", "embedding_renorm"):
        return "embedding", (), {}
    if name in VIEWS:
        return "view", (), {}
    if name in COPIES:
        return "copy", (), {}
    return "other", (), {}


def _fft_ops(elements: int, lengths: list[int]) -> dict[str, int]:
    """The textbook's radix-2 transform: per axis of length L, L/2·log2 L butterflies of four real products and six sums,
    for a real or a complex tensor (a library may do with fewer)."""
    stages = sum(max(1, math.ceil(math.log2(n))) if n > 1 else 0 for n in lengths)
    return {"mul": 2 * elements * stages, "add": 3 * elements * stages}


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
    from lamina.tracing.tracer import SMALL

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


def assume(x: Tensor) -> None:
    """Mark a real tensor whose values are made up, so that whoever reads one is found out."""
    x._lamina_assumed = True  # type: ignore[attr-defined]


def _is_assumed(x: Any) -> bool:
    return hasattr(x, "_lamina_assumed")


def _run(mode: Beneath, func: Any, args: Any, kwargs: Any, on_meta: bool) -> Any:
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
    if any(_is_assumed(x) for x in tensors((args, kwargs))):
        for x in tensors(result):
            assume(x)
        if traits.reads and mode.name != "one_hot":  # which reads them only to see that none is too large
            _note_assumption(mode.tracer)
    return result


def _note_assumption(t: Tracer) -> None:
    line = state.calling_line()
    t.assumptions[f"{t.where()}: choices that depend on values take turns, at {line}"] = None


READERS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__", "equal"}


def _needs(t: Tracer, func: Any, mode: Beneath, error: Exception) -> InputError:
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


def beneath(t: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation that has no rule, and record what lies beneath it as one layer."""
    name = getattr(func, "__name__", "operation").strip("_")
    mode = Beneath(t, name)
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
            return beneath(t, func, *mapped((args, kwargs), t.meta))  # it wants all of them in one place
        if not isinstance(error, InputError) and ("meta" in text.lower() or "fake impl" in text):
            mode.forget()
            raise _needs(t, func, mode, error) from error
        raise
    if getattr(func, "__name__", "") in READERS and any(_is_assumed(x) for x in tensors((args, kwargs))):
        _note_assumption(t)
    if not mode.kinds:
        mode.forget()
        return result
    outputs = [x for x in _unique(tensors(result)) if id(x) not in mode.inputs or id(x) in mode.changed]
    places = {x.untyped_storage()._cdata: x for x in reversed(mode.inputs.values())}  # a view was written: so was its base
    written = [places.get(x.untyped_storage()._cdata, x) if key in mode.inner else x for key, x in mode.changed.items()]
    outputs += [x for x in _unique(written) if id(x) in mode.inputs and all(x is not y for y in outputs)]
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
    told = PRODUCTS.issuperset(mode.kinds) and (mode.factors or not mode.loops)
    t.emit(
        kind,
        name,
        inputs,
        outputs,
        nests,
        mode.ops,
        saved=mode.factors if told else (*inputs, *outputs),
        workspace=max(0, mode.peak - inherited),
        operators=(mode.counted, mode.free),
    )
    mode.forget()
    t.unknown += [(len(t.layers) - 1, *operator) for operator in mode.unknown]
    return result


def tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([mapped(v, function) for v in value])
    if isinstance(value, dict):
        return {k: mapped(v, function) for k, v in value.items()}
    return value


def _unique(values: Iterable[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in values}.values())
