"""A module becomes a `Workload`: one forward call on the meta device, where nothing is computed or allocated.

Two levels. A `TorchFunctionMode` sees operations as people write them and asks `rules` for their shapes: the commonest
never reach a kernel. What has no rule runs on the meta device under a `TorchDispatchMode` (`meta_ops`), which counts
its operators; together they are one layer. Functions that torch writes in Python are opened: what they call is seen
in its turn. Nothing is left on the module, and other threads are not seen.

Small integer tensors (token ids, positions, lengths) keep their values, so that a forward may read them; what would
need the value of anything else is an error that names the line.
"""

import copy
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch._C import _len_torch_function_stack, _pop_torch_function_stack, _push_on_torch_function_stack
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode

from lamina.errors import InputError, LaminaError, first_line
from lamina.operators import ShapeError
from lamina.tracing import calls, custom, drafts, meta_ops, rules, state
from lamina.tracing.values import META, SMALL
from lamina.workload import Coverage, Kind, Layer, Loops, Part, Tensor, Unknown, Weight, Workload

BUFFER = object()  # a module's buffer: neither a weight nor an activation
ATTRIBUTE = type(vars(torch._C.TensorBase)["shape"].__get__)  # reading or writing an attribute, as torch's modes see it
FREE = ("view", "copy", "embedding")  # kinds that move data and compute nothing
_SET_NAME = vars(Layer)["name"].__set__  # a frozen record's own


def trace(module: Callable[..., Any], *inputs: Any, name: str | None = None, **kwargs: Any) -> Workload:
    """The `Workload` of one call `module(*inputs, **kwargs)`, in the module's own mode (train or eval).

    Floating-point tensors among the inputs only lend their shape and dtype; they may lie on any device, the meta device
    included. Integer tensors that are not on the meta device keep their values. The module may be real, on the meta
    device or compiled, and stays as it was, also when its forward raises; it may be any callable.

    Raises `InputError`, which names the layer or the line of the forward, for shapes that do not fit, arguments that are
    missing, and values that a trace cannot know; the forward's own errors become one too if they are of
    its kind (ValueError, TypeError, RuntimeError), and otherwise a `LaminaError`.
    """
    module = _original(module)
    with _no_collection(), _turn(module):
        return Tracer(module).run(inputs, kwargs, name or type(module).__name__)


def _original(module: Any) -> Any:
    """What `torch.compile` was given."""
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else module


class Frame:
    """One call of a module that is under way."""

    __slots__ = ("call", "layers", "leaf", "path", "type")

    def __init__(self, path: str, call: int, leaf: bool, type: str):
        self.path, self.call, self.leaf, self.type = path, call, leaf, type
        self.layers = 0  # how many it made itself


class Storage:
    """An allocation: how many tensors of it are alive, and since and until which layer it lives; `address` is its own in
    C++."""

    __slots__ = ("address", "born", "bytes", "freed", "key", "living")

    def __init__(self, key: int, bytes: int, born: int, address: int = 0):
        self.key, self.bytes, self.born, self.address = key, bytes, born, address
        self.freed, self.living = -2, 0


class _Death(weakref.ref):
    """A weak reference that knows whose death it reports."""

    __slots__ = ("key", "storage")


class Tracer(TorchFunctionMode):
    """The state of one trace. The rules call `emit` once an operation."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module
        self.is_module = isinstance(module, nn.Module)
        self.modules: dict[int, tuple[str, nn.Module, bool, str]] = {}  # path, module, whether a leaf, type; by id
        self.stack = [Frame("", 0, False, type(module).__name__)]
        self.calls: dict[str, int] = {}
        self.layers: list[Layer] = []
        self.frames: list[Frame] = []  # that made the layers
        self.tensors: list[Tensor] = []
        self.storages: list[Storage] = []
        self.storage_of: dict[int, Storage] = {}  # by the address of the C++ storage
        self.known: dict[int, Any] = {}  # by id(tensor): a `Tensor`, a `Weight` or BUFFER
        self.own_storage: dict[int, Any] = {}  # by address: the `Weight` or BUFFER that lies there
        self.stale: set[int] = set()  # addresses of real tensors into which a trace would have written
        self.twins: dict[int, torch.Tensor] = {}  # a real tensor's stand-in on the meta device
        self.hold: list[Any] = []
        self.deaths: dict[int, _Death] = {}  # by id(tensor)
        self.undo: list[tuple[Any, Any, Any]] = []  # attributes of weights that the forward set: setter, tensor, value
        self.opening: list[Any] = []  # functions of torch whose Python is running
        self.running = False
        self.grad = True  # whether the forward stands outside of torch.no_grad()
        self.counted, self.free = 0, 0
        self.unknown: list[tuple[int, str, Any, Any]] = []  # layer index, operator, shapes in and out
        self.assumptions: dict[str, None] = {}
        self.buffers, self.buffer_bytes = 0, 0
        self.weights: tuple[Weight, ...] = self._survey() if self.is_module else ()

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _survey(self) -> tuple[Weight, ...]:
        """One walk over the module: paths, buffers, and parameters, where two in one storage and of one shape are one
        tied weight. A compiled submodule has the path of its original."""
        weights: list[Weight] = []
        views: dict[tuple[int, tuple[int, ...]], Weight] = {}  # of one storage, by their shapes
        buffers: dict[int, torch.Tensor] = {}
        kinds: dict[type, str] = {}
        known, places, parameters, modules, dtypes = self.known, self.own_storage, [], self.modules, _DTYPES
        waiting: list[tuple[str, nn.Module]] = [("", self.module)]
        while waiting:
            path, module = waiting.pop()
            if id(module) in modules:
                continue
            leaf, prefix = module is not self.module, f"{path}." if path else ""
            kind = kinds.get(type(module))
            if kind is None:
                if isinstance(module, torch.jit.ScriptModule):
                    where = path or "the module"
                    raise InputError(f"{where} is scripted, which hides its operators: trace what it was made from")
                kind = kinds[type(module)] = type(module).__name__
            if module._modules:
                children = []
                for name, child in module._modules.items():
                    if child is not None:
                        children.append((path if kind == "OptimizedModule" else prefix + name, child))
                        leaf = leaf and isinstance(child, (nn.ParameterList, nn.ParameterDict))
                waiting += reversed(children)
            modules[id(module)] = (path, module, leaf, kind)
            if module._buffers:
                for buffer in module._buffers.values():
                    if buffer is not None:
                        buffers[id(buffer)] = buffer
            if not module._parameters:
                continue
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                shape, place = tuple(parameter.shape), parameter.untyped_storage()._cdata
                weight = places.get(place)
                if weight is not None and weight.shape != shape:
                    views[place, weight.shape] = weight
                    weight = views.get((place, shape))
                if weight is None:
                    part: Part = "norm" if "Norm" in kind else "bias" if name.endswith("bias") else "weight"
                    dtype = dtypes.get(parameter.dtype) or dtype_name(parameter.dtype)
                    weight = drafts.weight((prefix + name,), shape, dtype, len(weights), part, parameter.requires_grad)
                    weights.append(weight)
                    places[place] = weight
                else:  # nobody else has seen the record yet
                    object.__setattr__(weight, "names", (*weight.names, prefix + name))
                known[id(parameter)] = weight
                parameters.append(parameter)
        for key, buffer in buffers.items():
            known[key] = BUFFER
            place = buffer.untyped_storage()._cdata
            if place not in places:
                places[place] = BUFFER
            self.buffers += buffer.numel()
            self.buffer_bytes += buffer.nbytes
        self.hold += parameters
        self.hold += buffers.values()
        return tuple(weights)

    def run(self, inputs: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Workload:
        given = inputs, kwargs
        inputs, kwargs = _map((tuple(inputs), dict(kwargs)), self._enter_input)
        count = len(self.tensors)
        self.running = True
        try:
            with self._surroundings(), self:
                result = self.module(*inputs, **kwargs)
        except LaminaError:
            raise
        except Exception as error:
            raise self._explained(error, *given) from error
        finally:
            # A death's callback holds the tracer, which holds the death: without this all of it would wait for a collection.
            self.deaths.clear()
        for tensor in _leaves(result):
            found = self.known.get(id(tensor))
            if isinstance(found, Tensor):
                object.__setattr__(found, "role", "output")  # nobody else has seen the record yet
        return self._finish(name, count)

    def _enter_input(self, value: torch.Tensor) -> torch.Tensor:
        if not value.is_meta and (value.is_floating_point() or value.is_complex() or value.numel() > SMALL):
            value = self.meta(value)
        elif isinstance(value, nn.Parameter):
            value = value.detach()
        self.register(value, False, "input")
        self.hold.append(value)
        return value

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """The forward's world: modules say when they are called, gradients are on, compiled code runs as written; and
        afterwards everything is as it was."""
        dynamo = sys.modules.get("torch._dynamo")
        eager = torch.compiler.set_stance("force_eager") if dynamo is not None else nullcontext()
        everyone = [entry[1] for entry in self.modules.values()]
        try:
            with state.restored(everyone), eager, torch.enable_grad(), calls.watched(self._watcher()):
                for module in everyone:
                    if module._compiled_call_impl is not None:  # of module.compile()
                        module._compiled_call_impl = None  # type: ignore[assignment]
                yield
        finally:
            for setter, tensor, value in reversed(self.undo):
                setter(tensor, value)

    def _watcher(self) -> calls.Watcher:
        """What is done where a module is called: note where its layers belong, and go straight to the rule of the one
        function that its forward calls, if it is such a module; torch's own way there takes as long as the rule does."""
        modules, counts, stack = self.modules, self.calls, self.stack
        shortcuts = {} if custom.RULES or _has_any_global_hook() else rules.shortcuts()
        modes = _len_torch_function_stack() + 1  # this one is entered next: others above it want to see the function

        def called(call: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            entry = modules.get(id(module))
            if entry is None:  # made or swapped in during the call
                kind = type(module).__name__
                path = f"{stack[-1].path}.{kind}".lstrip(".")
                entry = modules[id(module)] = (path, module, not module._modules, kind)
            path, _, leaf, kind = entry
            counts[path] = number = counts.get(path, -1) + 1
            frame = Frame(path, number, leaf, kind)
            stack.append(frame)
            result, shortcut = NotImplemented, shortcuts.get(type(module))
            if shortcut is not None and len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor):
                own = module.__dict__
                if not (
                    own["_forward_hooks"]
                    or own["_forward_pre_hooks"]
                    or own["_backward_hooks"]
                    or own["_backward_pre_hooks"]
                    or "forward" in own
                    or _len_torch_function_stack() != modes
                ):
                    rule, arguments = shortcut
                    _pop_torch_function_stack()
                    try:
                        given = arguments(module, args[0])
                        if given is not None:
                            result = rule(self, args[0], *given)
                    except ShapeError as error:
                        raise InputError(f"{self.where()}: {error}") from error
                    finally:
                        _push_on_torch_function_stack(self)
            if result is NotImplemented:
                result = call(module, *args, **kwargs)
            while stack.pop() is not frame:
                pass  # a call inside raised, and the author caught it
            return result

        return called

    # ---- tensors ------------------------------------------------------------------------------------------------

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A fresh result; `emit` registers it."""
        return torch.empty(shape, dtype=dtype, device=META)

    def register(self, tensor: torch.Tensor, requires_grad: bool, role: Any = "activation") -> Tensor:
        """Give a tensor (or its new content, after an in-place operation) a number; a view joins its storage."""
        memory = tensor.untyped_storage()
        address = memory._cdata
        storage = self.storage_of.get(address)
        if storage is None:
            storages = self.storages
            bytes = 0 if address in self.own_storage else memory.nbytes()  # a part of a weight is no memory of its own
            storage = Storage(len(storages), bytes, len(self.layers) if self.running else -1, address)
            storages.append(storage)
            self.storage_of[address] = storage
        key, dtype, tensors, known = id(tensor), tensor.dtype, self.tensors, self.known
        if type(known.get(key)) is not Tensor:
            storage.living += 1
            self.deaths[key] = death = _Death(tensor, self._died)
            death.key, death.storage = key, storage
        known[key] = found = drafts.tensor(
            len(tensors),
            tuple(tensor.shape),
            _DTYPES.get(dtype) or dtype_name(dtype),
            storage.key,
            storage.bytes,
            role,
            requires_grad,
        )
        tensors.append(found)
        return found

    def _died(self, death: _Death) -> None:
        key, storage = death.key, death.storage
        del self.deaths[key]
        self.known.pop(key, None)
        storage.living -= 1
        if storage.living == 0:
            storage.freed = max(len(self.layers) - 1, storage.born)
            if self.storage_of.get(storage.address) is storage:
                del self.storage_of[storage.address]

    def identify(self, tensor: torch.Tensor) -> Any:
        """A tensor's record, its `Weight`, or BUFFER. A tensor from nowhere (a constant in a closure) gets a record
        here."""
        found = self.known.get(id(tensor))
        if found is not None:
            return found
        address = tensor.untyped_storage()._cdata
        own = self.own_storage.get(address)
        if own is not None:
            return own
        if address not in self.storage_of:
            self.hold.append(tensor)
        return self.register(tensor, False, "input")

    def owner_of(self, tensor: torch.Tensor) -> Any:
        """The module's `Weight` that the tensor is or is a view of, or BUFFER; None for an activation."""
        found = self.known.get(id(tensor))
        if found is None:
            found = self.own_storage.get(tensor.untyped_storage()._cdata)
        return None if isinstance(found, Tensor) else found

    def is_own(self, tensor: torch.Tensor) -> bool:
        """Whether it is one of the module's weights or buffers, or a view of one."""
        return self.owner_of(tensor) is not None

    def is_weight(self, *tensors: torch.Tensor) -> bool:
        """Whether one of them is one of the module's weights, or a view of one."""
        return any(type(self.own_storage.get(x.untyped_storage()._cdata)) is Weight for x in tensors)

    def factors(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor | int, ...]:
        """What a product keeps for the backward pass: each factor, if a gradient flows to the other one."""
        return a if self.is_differentiable(b) else 0, b if self.is_differentiable(a) else 0

    def is_differentiable(self, tensor: torch.Tensor | int) -> bool:
        """Whether a gradient flows to it; for the bytes of an intermediate result that is taken for granted."""
        if isinstance(tensor, int):
            return True
        found = self.known.get(id(tensor))
        if found is None:
            found = self.own_storage.get(tensor.untyped_storage()._cdata)
        return found.requires_grad if type(found) is Tensor else type(found) is Weight and found.trainable

    def meta(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or a stand-in on the meta device. That of a weight or a buffer is kept and known as such."""
        if tensor.is_meta:
            return tensor
        twin = self.twins.get(id(tensor))
        if twin is None:
            twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
            found = self.known.get(id(tensor))
            if found is BUFFER or isinstance(found, Weight):
                self.twins[id(tensor)] = twin
                self.known[id(twin)] = found
                self.own_storage[twin.untyped_storage()._cdata] = found
        return twin

    # ---- layers -------------------------------------------------------------------------------------------------

    def operand(self, tensor: torch.Tensor) -> int | str:
        found = self.known.get(id(tensor))
        if found is None:
            found = self.identify(tensor)
        return found.id if isinstance(found, Tensor) else found.names[0] if isinstance(found, Weight) else "buffer"

    def operands(self, input: torch.Tensor, weight: torch.Tensor, *others: torch.Tensor | None) -> tuple[int | str, ...]:
        """The operands of a nest whose output `emit` registers next; `others` are the operation's further inputs."""
        names = (self.operand(input), self.operand(weight))
        for other in others:
            if other is not None and id(other) not in self.known:
                self.identify(other)
        return (*names, len(self.tensors))

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
    ) -> Any:
        """Record one operation. `saved` are tensors kept for the backward pass (an int is so many bytes of a mask,
        indices or statistics); it is stored only where a gradient flows. Returns `output`."""
        frame, known = self.stack[-1], self.known
        read: list[Tensor] = []
        weights: list[Weight] = []
        grad = False
        for tensor in inputs:
            found = known.get(id(tensor))
            if found is None:
                if tensor is None:
                    continue
                found = self.identify(tensor)
            if type(found) is Tensor:
                read.append(found)
                if found.requires_grad:
                    grad = True
            elif found is not BUFFER:
                weights.append(found)
                if found.trainable:
                    grad = True
        grad = grad and self.grad
        if isinstance(output, torch.Tensor):
            results: Sequence[torch.Tensor] = (output,)
            grad = grad and (output.is_floating_point() or output.is_complex())
            made = (self.register(output, grad),)
        else:
            results = output
            made = tuple([self.register(t, grad and (t.is_floating_point() or t.is_complex())) for t in results])
            grad = any([t.requires_grad for t in made])
        keep = self._keep(saved) if grad and saved else ()
        if loops and results and results[0].is_complex():
            loops = tuple(replace(nest, times=4 * nest.times) for nest in loops)  # four real products make a complex one
        if operators is not None:
            self.counted += operators[0]
            self.free += operators[1]
        elif kind in FREE:
            self.free += 1
        else:
            self.counted += 1
        frame.layers += 1
        self.frames.append(frame)
        self.layers.append(
            drafts.layer(
                "",  # `_finish` names it
                frame.path,
                frame.type,
                frame.call,
                kind,
                op,
                attributes or {},
                tuple(read),
                made,
                tuple(weights),
                loops,
                ops or {},
                keep,
                workspace,
            )
        )
        return output

    def _keep(self, saved: Iterable[torch.Tensor | int]) -> tuple[int, ...]:
        """The storages kept: of tensors, and new ones for masks, indices and statistics, which exist in training only."""
        keep: list[int] = []
        for item in saved:
            if type(item) is int:
                if item:
                    storage = Storage(len(self.storages), item, len(self.layers))
                    storage.freed = storage.born - 1
                    self.storages.append(storage)
                    keep.append(storage.key)
            else:
                found = self.known.get(id(item))
                if type(found) is Tensor:
                    keep.append(found.storage)
        return tuple(keep) if len(keep) < 2 else tuple(dict.fromkeys(keep))

    def _names(self) -> list[str]:
        """The layers' names: the module's path, if it is a leaf and did one thing in that call, else path/operator; what
        comes again is numbered."""
        seen: dict[str, int] = {}
        names = []
        for layer, frame in zip(self.layers, self.frames, strict=True):
            path = frame.path
            base = path if frame.leaf and frame.layers == 1 else f"{path}/{layer.op}" if path else layer.op
            count = seen[base] = seen.get(base, -1) + 1
            names.append(f"{base}:{count}" if count else base)
        return names

    # ---- operations ---------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        try:
            if custom.RULES and func in custom.RULES:
                return custom.apply(self, func, args, kwargs or {})
            rule = rules.RULES.get(func)
            if rule is not None:
                result = rule(self, *args, **kwargs) if kwargs else rule(self, *args)
                if result is not NotImplemented:
                    return result
            elif func in rules.TRANSPARENT:
                return func(*args, **kwargs) if kwargs else func(*args)
            return self._without_rule(func, args, kwargs or {})
        except ShapeError as error:
            raise InputError(f"{self.where()}: {error}") from error

    def _without_rule(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if type(func) is ATTRIBUTE:
            if func.__name__ == "__set__" and self.is_own(args[0]):
                self.undo.append((func, args[0], func.__self__.__get__(args[0])))
            return func(*args)
        if func is torch._C._set_grad_enabled:
            if args[0] or torch.is_grad_enabled():  # else it was off already: within a custom function's forward
                self.grad = bool(args[0])
            return func(*args)
        opened = _opened(func) if func not in self.opening else None  # Tensor's Python methods call their like beneath
        if opened is not None:
            self.opening.append(func)
            try:
                with self:
                    return opened(*args, **kwargs)
            finally:
                self.opening.pop()
        with torch.no_grad():
            return meta_ops.run(self, func, args, kwargs)

    def where(self) -> str:
        frame = self.stack[-1]
        return f"{frame.path or type(self.module).__name__} ({frame.type})"

    def _explained(self, error: Exception, inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> LaminaError:
        """The forward's own error, shortened to the user's line; missing arguments by their names."""
        function = self.module.forward if self.is_module else self.module
        if isinstance(error, TypeError):
            try:
                signature = inspect.signature(function)
                missing = [
                    name
                    for name, p in signature.parameters.items()
                    if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
                    if name not in signature.bind_partial(*inputs, **kwargs).arguments
                ]
            except (TypeError, ValueError):
                missing = []
            if missing:
                name = getattr(self.module, "__name__", type(self.module).__name__)
                return InputError(f"{name} needs {' and '.join(f'`{m}`' for m in missing)}, which the call did not give")
        text = first_line(error) if str(error).strip() else "no message"
        line = state.raising_line(error.__traceback__)
        kind = InputError if isinstance(error, (ValueError, RuntimeError, TypeError)) else LaminaError
        return kind(f"{self.where()}: {type(error).__name__}: {text}" + (f"; at {line}" if line else ""))

    # ---- the record ---------------------------------------------------------------------------------------------

    def _finish(self, name: str, inputs: int) -> Workload:
        last = len(self.layers) - 1
        names = self._names()
        for layer, text in zip(self.layers, names, strict=True):
            _SET_NAME(layer, text)  # nobody else has seen the record yet
        lifetime = drafts.lifetime
        lives = [lifetime(s.key, s.bytes, s.born, last if s.freed == -2 else s.freed) for s in self.storages]
        unknown = [Unknown(op, names[at], tuple(given), tuple(made)) for at, op, given, made in self.unknown]
        return Workload(
            name=name,
            mode="train" if self.is_module and self.module.training else "eval",
            inputs=tuple(self.tensors[:inputs]),
            layers=tuple(self.layers),
            weights=self.weights,
            buffers=self.buffers,
            lifetimes=tuple(lives),
            lifetime_rule="eager",
            coverage=Coverage(self.counted, self.free, tuple(unknown)),
            buffer_bytes=self.buffer_bytes,
            assumptions=tuple(self.assumptions),
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: when a tensor in a cycle dies would depend on chance."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_TURNS: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()


def _turn(module: Any) -> AbstractContextManager[Any]:
    """Threads that trace one module take turns: what a forward stores on it is put back before the next begins."""
    if not isinstance(module, nn.Module):
        return nullcontext()
    with _TURNS_LOCK:
        return _TURNS.setdefault(module, threading.RLock())


_OPENED: dict[Any, Any] = {}


def _opened(func: Any) -> Any:
    """A function that torch writes in Python, without its question whether a mode is watching: what it calls is seen
    instead. None if there is nothing to open."""
    found = _OPENED.get(func, func)
    if found is func:
        found, namespace = None, getattr(func, "__globals__", {})
        checks = [name for name in namespace if name.startswith("has_torch_function")]
        own = str(getattr(func, "__module__", "")).startswith("torch.")  # a function of others that asks is one operation
        if own and isinstance(func, FunctionType) and checks and func not in rules.WHOLE:
            plain = {**namespace, **dict.fromkeys(checks, lambda *_: False)}
            found = FunctionType(func.__code__, plain, func.__name__, func.__defaults__, func.__closure__)
            found.__kwdefaults__ = func.__kwdefaults__
        _OPENED[func] = found
    return found


_DTYPES: dict[torch.dtype, str] = {}


def dtype_name(dtype: torch.dtype) -> str:
    name = _DTYPES.get(dtype)
    if name is None:
        name = _DTYPES[dtype] = str(dtype).removeprefix("torch.")
    return name


def _map(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """`value` with `function` applied to the tensors in its tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(v, function) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)([_map(v, function) for v in value])
    if isinstance(value, dict):
        mapped = copy.copy(value)
        mapped.update({k: _map(v, function) for k, v in value.items()})
        return mapped
    return value


def _leaves(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a result, dataclasses included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name))
