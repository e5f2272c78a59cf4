"""A module becomes a `Workload`: one forward call on the meta device, where nothing is computed or allocated.

Two levels. A function mode (`TorchFunctionMode`) sees operations as people write them and asks `rules` for their shapes:
the commonest never reach a kernel. What has no rule runs on the meta device under a dispatch mode (`meta_ops`), which
counts its operators; together they are one layer. Functions that torch writes in Python are opened: what they call is
seen in its turn. torch's global module hooks say which module is being called. Operators that no function of torch has
called, those of scripted functions, reach a dispatch mode below. Nothing is left on the module; of other threads only what
they are given of this trace is seen.

`survey` says what the module has, `ledger` knows the tensors and how long they live, `emitter` collects the layers.
"""

import copy
import gc
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from types import FunctionType, MethodWrapperType
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from lamina.errors import InputError, LaminaError
from lamina.operators import ShapeError
from lamina.tracing import blame, custom, gradient, meta_ops, outside, private, rules, shadows, values
from lamina.tracing.emitter import Emitter
from lamina.tracing.ledger import Ledger
from lamina.tracing.restore import restored
from lamina.tracing.survey import survey
from lamina.tracing.values import same_seed
from lamina.workload import Device, Workload

Loss = Callable[[Any], Any]


def trace(
    module: Callable[..., Any],
    *inputs: Any,
    name: str | None = None,
    device: Device = "cpu",
    loss: Loss | None = None,
    values: bool = False,
    **kwargs: Any,
) -> Workload:
    """The `Workload` of one call `module(*inputs, **kwargs)`, in the module's own mode (train or eval).

    Floating-point tensors among the inputs only lend their shape and dtype; they may lie on any device, the meta device
    included. Integer tensors that are not on the meta device keep their values. The module may be real, on the meta
    device or compiled, and stays as it was, also when its forward raises; it may be any callable.

    The backward pass starts at everything that the forward returns; `loss` picks from that, as in
    `loss=lambda output: output.logits`, and what only leads elsewhere is not part of it. An input needs a gradient if its
    `requires_grad` says so.

    With `values` the forward runs, on the CPU, with the values of its inputs and of a copy of the module: what shapes cannot
    decide (`.item()`, `nonzero`, boolean masks, the boxes that a detector is left with) is counted as it happens.

    `device` ("cpu" or "cuda") is where eager execution is imagined: what torch keeps for the backward pass depends on it,
    as its kernels do (attention with dropout is fused on a GPU only). A forward with an argument of one of these names has to
    take it from elsewhere.

    Raises `InputError`, which names the layer or the line of the forward, for shapes that do not fit, arguments that are
    missing, and values that a trace cannot know; the forward's own errors become one too if they are of
    its kind (ValueError, TypeError, RuntimeError), and otherwise a `LaminaError`.
    """
    if device not in get_args(Device):
        raise InputError(f"device {device!r}: memory is known for {' and '.join(get_args(Device))}")
    module = private.original(module)
    name = name or type(module).__name__
    if values:
        with _no_collection(), same_seed():
            return Tracer(_real(module), device, real=True).run(inputs, kwargs, name, loss)
    with _no_collection(), _turn(module):
        try:
            return Tracer(module, device).run(inputs, kwargs, name, loss)
        except InputError as error:
            if not private.refuses_subclass(error.__cause__):
                raise
        return Tracer(module, device, watch=False).run(inputs, kwargs, name, loss)


class Escapes(private.DispatchMode):
    """Hands the operators that no function of torch has called, those of scripted functions, to the trace."""

    def __init__(self, tracer: "Tracer"):
        super().__init__()
        self.tracer = weakref.proxy(tracer)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        with private.no_function_modes():
            if func in private.NOTHING:
                return self.tracer.pass_on(func, args, kwargs or {})
            return self.tracer.__torch_function__(func, types, args, kwargs)


class Current(threading.local):
    """Of each thread: its innermost trace, and if that began in another thread the modes that it entered here."""

    tracer: "Tracer | None" = None
    follows: ExitStack | None = None


_current = Current()


class Tracer(TorchFunctionMode):
    """One trace: the call of the module, and what is done with each function of torch that it calls."""

    def __init__(self, module: Any, device: Device, watch: bool = True, real: bool = False):
        """`watch`: whether what scripted functions do is seen; `real`: whether the forward runs on values."""
        super().__init__()
        self.module = module
        self.survey = survey(module)
        called = self.called = [module]  # and its arguments
        self.ledger = Ledger(self.survey, lambda: outside.tensors(*called))
        self.emitter = Emitter(module, self.survey, self.ledger, device)
        self.real = self.emitter.real = real
        self.escapes = Escapes(self) if watch else None
        self.lock = threading.RLock()  # threads of the forward's own take turns, an operation each
        self.closed = False
        self.undo: list[tuple[Any, torch.Tensor, Any]] = []  # attributes of tensors that the forward set: setter, tensor, value

    def run(self, inputs: Sequence[Any], kwargs: Mapping[str, Any], name: str, loss: Loss | None) -> Workload:
        self.called += inputs, kwargs
        entered: dict[int, torch.Tensor] = {}  # by the id of what was given: a tensor that is given twice stays one

        def enter(value: torch.Tensor) -> torch.Tensor:
            if id(value) not in entered:
                entered[id(value)] = self._enter(value)
            return entered[id(value)]

        args, options = private.tree_map_only(torch.Tensor, enter, (tuple(inputs), dict(kwargs)))
        given = len(self.ledger.tensors)
        self.ledger.layer = 0
        try:
            with self._surroundings(), self._modes():
                result = self.module(*args, **options)
        except LaminaError:
            raise
        except Exception as error:
            where = self.emitter.where(blame.raising_module(error.__traceback__))
            raise blame.explained(error, where, self.module, inputs, kwargs) from error
        finally:
            self.closed = True
            self.ledger.close()
        results = [shadows.shadow(x) for x in values.tensors(result)]
        self.ledger.note_results(results)
        records = self.ledger.records(results)
        chosen = results if loss is None else [shadows.shadow(x) for x in _chosen(loss, result)]
        if chosen:  # else the forward leaves its results elsewhere
            gradient.follow(self.emitter.operations, records, *self.ledger.places(chosen))
        return Workload(
            name=name,
            mode="train" if isinstance(self.module, nn.Module) and self.module.training else "eval",
            inputs=tuple(records[:given]),
            layers=self.emitter.layers(records),
            weights=self.survey.weights,
            buffers=self.survey.buffers,
            lifetimes=self.ledger.lifetimes(),
            lifetime_rule="eager",
            coverage=self.emitter.coverage(),
            buffer_bytes=self.survey.buffer_bytes,
            assumptions=self.emitter.assumptions(),
            device=self.emitter.device,
        )

    def _enter(self, value: torch.Tensor) -> torch.Tensor:
        """What the forward gets for an input."""
        requires_grad = value.requires_grad
        if self.real:
            value = value.detach().clone()
            shadows.cast(value, torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=values.META))
            self.ledger.enter(shadows.shadow(value), requires_grad)
            return value
        if not value.is_meta and not values.keeps_values(value):
            value = self.ledger.meta(value)
        elif isinstance(value, nn.Parameter):
            value = value.detach()
        self.ledger.enter(value, requires_grad)
        return value

    # ---- the forward's surroundings ---------------------------------------------------------------------------------

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Modules say when they are called, gradients are on, compiled code runs as written; and afterwards everything is
        as it was."""
        modules = [place.module for place in self.survey.places.values()]
        try:
            with restored(modules), _as_written(modules), torch.enable_grad(), self._module_hooks():
                yield
        finally:
            for setter, tensor, value in reversed(self.undo):
                setter(tensor, value)

    @contextmanager
    def _module_hooks(self) -> Iterator[None]:
        """Global hooks say which module is called. They are called in every thread, and for the modules that an outer trace
        and one within it call: each trace listens to its own."""
        outer = _current.tracer
        _current.tracer = self
        before = register_module_forward_pre_hook(self._before)
        after = register_module_forward_hook(self._after, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            _current.tracer = outer

    def _modes(self) -> ExitStack:
        """Entered, and left by whoever closes it."""
        with ExitStack() as stack:
            if self.escapes:
                stack.enter_context(self.escapes)
                stack.enter_context(private.unoptimized())  # scripted code as it was written
            stack.enter_context(self)
            return stack.pop_all()

    def _before(self, module: nn.Module, args: Any) -> None:
        if private.is_compiled(module):
            return
        if _current.tracer is None and any(map(self.ledger.is_traced, values.tensors(args))):
            _current.tracer, _current.follows = self, self._modes()  # a thread of the forward's own
        if _current.tracer is self:
            self.emitter.enter(module)

    def _after(self, module: nn.Module, args: Any, result: Any) -> None:
        if _current.tracer is self and not private.is_compiled(module):
            self.emitter.leave(module)
            if _current.follows and not self.emitter.is_within():
                _current.follows.close()
                _current.tracer = _current.follows = None

    # ---- operations -------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.closed:  # a thread that the forward has not waited for
            return func(*args, **kwargs)
        if self.escapes is None and private.is_within_kernel(sys._getframe(1)):  # a part of what escapes
            return func(*args, **kwargs)
        hidden = self.escapes if self.escapes and private.hide(self.escapes) else None
        imported = len(sys.modules)
        self.lock.acquire()
        try:
            result = self._with_values(func, args, kwargs) if self.real else self._recorded(func, args, kwargs)
            if len(sys.modules) != imported:  # a first call, whose imports leave cycles that keep tensors alive
                gc.collect()
            return result
        except ShapeError as error:
            raise InputError(f"{self.emitter.where()}: {error}") from error
        finally:
            self.lock.release()
            if hidden:
                private.show(hidden)

    def _recorded(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in custom.RULES:
            return custom.apply(self.emitter, func, args, kwargs)
        rule = rules.RULES.get(func)
        if rule is not None:
            result = rule(self.emitter, *args, **kwargs)
            if result is not NotImplemented:
                return result
        elif func in rules.TRANSPARENT:
            return func(*args, **kwargs)
        return self._without_rule(func, args, kwargs)

    def _with_values(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same on real tensors: questions are answered by them, Python is opened, all else runs and is recorded."""
        if func in rules.TRANSPARENT or getattr(func, "__name__", "") in meta_ops.READERS:
            return func(*args, **kwargs)
        named = func in rules.RULES or func in custom.RULES
        if not named and (isinstance(func, MethodWrapperType) or func is private.set_grad_enabled or self._opens(func)):
            return self._without_rule(func, args, kwargs)
        return shadows.run(self.emitter, func, args, kwargs, self._recorded)

    def _opens(self, func: Any) -> bool:
        return func not in self.emitter.thread.opened and _opened(func) is not None

    def pass_on(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What is the same tensor again: scripted functions detach what they were given, and set gradients up themselves."""
        result = func(*args, **kwargs)
        if self.real:
            shadows.cast(result, shadows.shadow(args[0]))
        else:
            self.ledger.alias(result, args[0])
        return result

    def _without_rule(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(func, MethodWrapperType):  # reading or writing an attribute, as a mode sees it
            if func.__name__ == "__set__" and self.ledger.is_outside(args[0]):
                attribute: Any = func.__self__
                self.undo.append((func, args[0], attribute.__get__(args[0])))
            return func(*args)
        if func is private.set_grad_enabled:
            if args[0] or torch.is_grad_enabled():  # else it was off already: within a custom function's forward
                self.emitter.thread.differentiates = bool(args[0])
            return func(*args)
        running = self.emitter.thread.opened
        opened = _opened(func) if func not in running else None  # Tensor's Python methods call themselves
        if opened is not None:
            running.append(func)
            try:
                with self:
                    return opened(*args, **kwargs)
            finally:
                running.pop()
        with torch.no_grad():
            return meta_ops.run(self.emitter, func, args, kwargs)


def _real(module: Any) -> Any:
    """A copy of a module to run: what its forward does to its buffers goes with it."""
    if not isinstance(module, nn.Module):
        return module
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise InputError(f"values=True runs the module, and its {name} is on the {tensor.device.type} device, not the CPU")
    return copy.deepcopy(module)


def _chosen(loss: Loss, result: Any) -> list[torch.Tensor]:
    """What the loss is computed of."""
    try:
        chosen = values.tensors(loss(result))
    except (AttributeError, LookupError, TypeError) as error:
        raise InputError(f"loss= does not fit what the forward returns: {type(error).__name__}: {error}") from error
    if not chosen:
        raise InputError("loss= picks no tensor from what the forward returns")
    return chosen


@cache
def _opened(func: Any) -> Any:
    """A function that torch writes in Python, without its question whether a mode is watching: what it calls is seen
    instead. None if there is nothing to open."""
    checks = private.asks_for_modes(func)
    own = str(getattr(func, "__module__", "")).startswith("torch.")  # a function of others that asks is one operation
    if not (own and isinstance(func, FunctionType) and checks and func not in rules.WHOLE):
        return None
    plain = {**func.__globals__, **dict.fromkeys(checks, lambda *_: False)}
    opened = FunctionType(func.__code__, plain, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


@contextmanager
def _as_written(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Compiled code runs as it was written."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nobody has compiled anything
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(map(private.is_compiled, modules)):  # torch warns that global hooks see the module and its original
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Using `torch.compile")
        yield


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
