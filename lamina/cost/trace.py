"""A module becomes a `Workload`: one forward call on the meta device, where nothing is computed or allocated.

Two levels. A `TorchFunctionMode` sees operations as people write them and asks `rules` for their shapes: the commonest
never reach a kernel. What has no rule runs on the meta device under a `TorchDispatchMode` (`aten`), which counts the
operators beneath; together they are one layer. Nothing is left on the module, and other threads are not seen.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from lamina.cost import aten, rules
from lamina.cost.formulas import ShapeError
from lamina.errors import InputError
from lamina.workload import Coverage, Kind, Layer, Lifetime, Loops, Part, Tensor, Unknown, Weight, Workload

META = torch.device("meta")
BUFFER = object()  # a module's buffer: neither a weight nor an activation


def trace(module: Callable[..., Any], *inputs: Any, name: str | None = None, **kwargs: Any) -> Workload:
    """The `Workload` of one call `module(*inputs, **kwargs)`, in the module's own mode (train or eval).

    Tensors among the inputs only lend their shape and dtype; they may lie on any device, the meta device included. The
    module may be real or on the meta device and stays as it was, also when its forward raises.
    """
    tracer = Tracer(module)
    return tracer.run(inputs, kwargs, name or type(module).__name__)


class Frame:
    """One call of a module that is under way."""

    __slots__ = ("call", "leaf", "module", "path", "type")

    def __init__(self, path: str, module: Any, call: int, leaf: bool):
        self.path, self.module, self.call, self.leaf = path, module, call, leaf
        self.type = type(module).__name__


class Storage:
    """An allocation: how many tensors of it are alive, and since and until which layer it lives."""

    __slots__ = ("born", "bytes", "freed", "key", "living")

    def __init__(self, key: int, bytes: int, born: int):
        self.key, self.bytes, self.born, self.freed, self.living = key, bytes, born, -2, 0


class _Death(weakref.ref):
    """A weak reference that knows whose death it reports."""

    __slots__ = ("key", "storage")


class Tracer(TorchFunctionMode):
    """The state of one trace. The rules call `emit` once an operation."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module
        self.owner = threading.get_ident()
        self.is_module = isinstance(module, nn.Module)
        self.paths: dict[int, str] = {id(m): n for n, m in module.named_modules()} if self.is_module else {}
        self.stack = [Frame("", module, 0, False)]
        self.calls: dict[str, int] = {}
        self.layers: list[dict[str, Any]] = []
        self.tensors: list[tuple[tuple[int, ...], torch.dtype, Storage, bool]] = []
        self.storages: list[Storage] = []
        self.storage_of: dict[int, Storage] = {}  # by the address of the C++ storage
        self.known: dict[int, Any] = {}  # by id(tensor): a tensor id, a Weight or BUFFER
        self.weight_storage: dict[int, Weight] = {}
        self.twins: dict[int, torch.Tensor] = {}  # a real tensor's stand-in on the meta device
        self.hold: list[Any] = []
        self.deaths: set[_Death] = set()
        self.running = False
        self.counted, self.free = 0, 0
        self.unknown: list[tuple[int, str, Any, Any]] = []  # layer index, operator, shapes in and out
        self.weights = self._weights() if self.is_module else ()
        self.buffers = 0
        if self.is_module:
            for buffer in module.buffers():
                self.known[id(buffer)] = BUFFER
                self.buffers += buffer.numel()
                self.hold.append(buffer)

    # ---- set-up -------------------------------------------------------------------------------------------------

    def _weights(self) -> tuple[Weight, ...]:
        """The module's parameters; two parameters in one storage and of one shape are one tied weight."""
        groups: dict[tuple[int, tuple[int, ...]], list[tuple[str, nn.Parameter, Part]]] = {}
        for path, module in self.module.named_modules():
            norm = "Norm" in type(module).__name__
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    part: Part = "norm" if norm else "bias" if name.endswith("bias") else "weight"
                    full = f"{path}.{name}" if path else name
                    key = (parameter.untyped_storage()._cdata, tuple(parameter.shape))
                    groups.setdefault(key, []).append((full, parameter, part))
        weights = []
        for number, ((address, shape), members) in enumerate(groups.items()):
            first = members[0][1]
            names = tuple(name for name, _, _ in members)
            weight = Weight(names, shape, dtype_name(first.dtype), number, members[0][2], first.requires_grad)
            self.weight_storage[address] = weight
            for _, parameter, _ in members:
                self.known[id(parameter)] = weight
                self.hold.append(parameter)
            weights.append(weight)
        return tuple(weights)

    def run(self, inputs: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Workload:
        inputs, kwargs = _map((tuple(inputs), dict(kwargs)), self._enter_input)
        count = len(self.tensors)
        self.running = True
        with self._watch_modules(), torch.no_grad(), self:
            result = self.module(*inputs, **kwargs)
        outputs = {self.known[id(t)] for t in _leaves(result) if isinstance(self.known.get(id(t)), int)}
        return self._finish(name, range(count), outputs)

    def _enter_input(self, value: torch.Tensor) -> torch.Tensor:
        if value.device.type != "meta" and value.is_floating_point():
            value = self.meta(value)
        elif isinstance(value, nn.Parameter):
            value = value.detach()
        self.register(value, requires_grad=False)
        self.hold.append(value)
        return value

    @contextmanager
    def _watch_modules(self):
        """Say which module is being called, by global hooks: they leave nothing on the module itself."""

        def before(module: nn.Module, _inputs: Any) -> None:
            if threading.get_ident() == self.owner:
                path = self.paths.get(id(module))
                if path is None:  # a module made or swapped in during the call
                    path = f"{self.stack[-1].path}.{type(module).__name__}".lstrip(".")
                call = self.calls.get(path, 0)
                self.calls[path] = call + 1
                self.stack.append(Frame(path, module, call, _is_leaf(module) and module is not self.module))

        def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
            if threading.get_ident() == self.owner:
                while len(self.stack) > 1 and self.stack.pop().module is not module:
                    pass  # a call inside raised, and the author caught it

        handles = (register_module_forward_pre_hook(before), register_module_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # ---- tensors ------------------------------------------------------------------------------------------------

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A fresh result; `emit` registers it."""
        return torch.empty(shape, dtype=dtype, device=META)

    def register(self, tensor: torch.Tensor, requires_grad: bool) -> int:
        """Give a tensor (or its new content, after an in-place operation) a number; a view joins its storage."""
        address = tensor.untyped_storage()._cdata
        storage = self.storage_of.get(address)
        if storage is None:
            storage = Storage(len(self.storages), tensor.untyped_storage().nbytes(), len(self.layers) if self.running else -1)
            self.storages.append(storage)
            self.storage_of[address] = storage
        key = id(tensor)
        number = len(self.tensors)
        self.tensors.append((tuple(tensor.shape), tensor.dtype, storage, requires_grad))
        if not isinstance(self.known.get(key), int):
            storage.living += 1
            death = _Death(tensor, self._died)
            death.key, death.storage = key, (address, storage)
            self.deaths.add(death)
        self.known[key] = number
        return number

    def _died(self, death: _Death) -> None:
        self.deaths.discard(death)
        self.known.pop(death.key, None)
        address, storage = death.storage
        storage.living -= 1
        if storage.living == 0:
            storage.freed = max(len(self.layers) - 1, storage.born)
            if self.storage_of.get(address) is storage:
                del self.storage_of[address]

    def identify(self, tensor: torch.Tensor) -> Any:
        """A tensor's number, its `Weight`, or BUFFER. A tensor from nowhere (a constant in a closure, the result of an
        attribute such as x.T) gets a number here."""
        found = self.known.get(id(tensor))
        if found is not None:
            return found
        address = tensor.untyped_storage()._cdata
        weight = self.weight_storage.get(address)
        if weight is not None:
            return weight
        self.hold.append(tensor) if address not in self.storage_of else None
        return self.register(tensor, requires_grad=False)

    def is_own(self, tensor: torch.Tensor) -> bool:
        """Whether it is one of the module's weights or buffers."""
        found = self.known.get(id(tensor))
        return found is not None and not isinstance(found, int)

    def meta(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or a stand-in on the meta device. That of a weight or a buffer is kept and known as such."""
        if tensor.device.type == "meta":
            return tensor
        twin = self.twins.get(id(tensor))
        if twin is None:
            twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
            found = self.known.get(id(tensor))
            if found is BUFFER or isinstance(found, Weight):
                self.twins[id(tensor)] = twin
                self.known[id(twin)] = found
                if isinstance(found, Weight):
                    self.weight_storage[twin.untyped_storage()._cdata] = found
        return twin

    # ---- layers -------------------------------------------------------------------------------------------------

    def operand(self, tensor: torch.Tensor) -> int | str:
        found = self.identify(tensor)
        return found if isinstance(found, int) else found.names[0] if isinstance(found, Weight) else "buffer"

    def operands(self, input: torch.Tensor, weight: torch.Tensor, *others: torch.Tensor | None) -> tuple[int | str, ...]:
        """The operands of a nest whose output `emit` registers next; `others` are the operation's further inputs."""
        names = (self.operand(input), self.operand(weight))
        for other in others:
            if other is not None:
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
        frame = self.stack[-1]
        numbers: list[int] = []
        weights: list[Weight] = []
        grad = False
        for tensor in inputs:
            if tensor is None:
                continue
            found = self.known.get(id(tensor))
            if found is None:
                found = self.identify(tensor)
            if isinstance(found, int):
                numbers.append(found)
                grad = grad or self.tensors[found][3]
            elif found is not BUFFER:
                weights.append(found)
                grad = grad or found.trainable
        results = (output,) if isinstance(output, torch.Tensor) else output
        keep: list[int] = []
        if grad:
            for item in saved:
                if not isinstance(item, int):
                    found = self.known.get(id(item))
                    if isinstance(found, int):
                        keep.append(self.tensors[found][2].key)
        produced = [self.register(t, grad) for t in results]
        if grad:
            for item in saved:
                if isinstance(item, int) and item:
                    storage = Storage(len(self.storages), item, len(self.layers))
                    storage.freed = storage.born - 1  # it exists in training only
                    self.storages.append(storage)
                    keep.append(storage.key)
                elif not isinstance(item, int) and any(item is t for t in results):
                    keep.append(self.tensors[self.known[id(item)]][2].key)
        if operators is None:
            operators = (0, 1) if kind in ("view", "copy", "embedding") else (1, 0)
        self.counted += operators[0]
        self.free += operators[1]
        self.layers.append(
            {
                "frame": frame,
                "module": frame.path,
                "module_type": frame.type,
                "call": frame.call,
                "kind": kind,
                "op": op,
                "attributes": attributes or {},
                "inputs": numbers,
                "outputs": produced,
                "weights": tuple(weights),
                "loops": loops,
                "ops": ops or {},
                "saved": tuple(dict.fromkeys(keep)),
                "workspace": workspace,
            }
        )
        return output

    def _names(self) -> list[str]:
        """The layers' names: the module's path, if it is a leaf and did one thing in that call, else path/operator; what
        comes again is numbered."""
        alone: dict[int, int] = {}
        for layer in self.layers:
            alone[id(layer["frame"])] = alone.get(id(layer["frame"]), 0) + 1
        seen: dict[str, int] = {}
        names = []
        for layer in self.layers:
            frame, op = layer["frame"], layer["op"]
            only = frame.leaf and alone[id(frame)] == 1
            base = frame.path if only else f"{frame.path}/{op}" if frame.path else op
            count = seen[base] = seen.get(base, -1) + 1
            names.append(f"{base}:{count}" if count else base)
        return names

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        try:
            rule = rules.RULES.get(func)
            if rule is not None:
                result = rule(self, *args, **(kwargs or {}))
                if result is not NotImplemented:
                    return result
            if func in rules.TRANSPARENT or getattr(func, "__name__", "") in ("__get__", "__set__"):
                return func(*args, **(kwargs or {}))
            return aten.beneath(self, func, args, kwargs or {})
        except ShapeError as error:
            raise InputError(f"{self.where()}: {error}") from error

    def where(self) -> str:
        frame = self.stack[-1]
        return f"{frame.path or type(self.module).__name__} ({frame.type})"

    # ---- the record ---------------------------------------------------------------------------------------------

    def _finish(self, name: str, inputs: range, outputs: set[int]) -> Workload:
        last = len(self.layers) - 1
        made = {number for layer in self.layers for number in layer["outputs"]}
        tensors = [
            Tensor(
                number,
                shape,
                dtype_name(dtype),
                storage.key,
                storage.bytes,
                "output" if number in outputs else "activation" if number in made else "input",
                grad,
            )
            for number, (shape, dtype, storage, grad) in enumerate(self.tensors)
        ]
        names = self._names()
        layers = tuple(
            Layer(
                name=names[index],
                **{
                    **{k: v for k, v in layer.items() if k != "frame"},
                    "inputs": tuple([tensors[n] for n in layer["inputs"]]),
                    "outputs": tuple([tensors[n] for n in layer["outputs"]]),
                },
            )
            for index, layer in enumerate(self.layers)
        )
        lifetimes = tuple(Lifetime(s.key, s.bytes, s.born, last if s.freed == -2 else s.freed) for s in self.storages)
        training = self.is_module and self.module.training
        coverage = Coverage(
            self.counted,
            self.free,
            tuple(Unknown(op, names[at], tuple(given), tuple(made)) for at, op, given, made in self.unknown),
        )
        return Workload(
            name=name,
            mode="train" if training else "eval",
            inputs=tuple(tensors[n] for n in inputs),
            layers=layers,
            weights=self.weights,
            buffers=self.buffers,
            lifetimes=lifetimes,
            lifetime_rule="eager",
            coverage=coverage,
        )


def _is_leaf(module: nn.Module) -> bool:
    return all(isinstance(child, (nn.ParameterList, nn.ParameterDict)) for child in module._modules.values())


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
        return type(value)(_map(v, function) for v in value)
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    return value


def _leaves(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _map(value, found.append)
    return found
