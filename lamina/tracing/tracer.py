"""A module becomes a `Workload`: one forward call on the meta device, where nothing is computed or allocated.

Two levels. A function mode (`TorchFunctionMode`) sees operations as people write them and asks `rules` for their shapes:
the commonest never reach a kernel. What has no rule runs on the meta device under a dispatch mode (`meta_ops`), which
counts its operators; together they are one layer. Functions that torch writes in Python are opened: what they call is
seen in its turn. torch's global module hooks say which module is being called. Operators that no function of torch has
called, those of scripted functions, reach a dispatch mode below. Nothing is left on the module; of other threads only what
they are given of this trace is seen.

`survey` says what the module has, `ledger` knows the tensors and how long they live, `emitter` collects the layers.
"""

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import MethodWrapperType
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from lamina.errors import InputError, LaminaError
from lamina.operators import ShapeError
from lamina.tracing import blame, control, copies, custom, gradient, meta_ops, nested, outside, private, rules, shadows, values
from lamina.tracing.emitter import Emitter
from lamina.tracing.ledger import Ledger
from lamina.tracing.restore import restored
from lamina.tracing.surroundings import as_written, no_collection, turn
from lamina.tracing.survey import Uninitialised, survey
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
    with no_collection():
        if values:
            with same_seed():
                return Tracer(copies.real(module, inputs, kwargs), device, real=True).run(inputs, kwargs, name, loss)
        with turn(module):
            return _shaped(module, inputs, kwargs, name, device, loss)


def _shaped(
    module: Any, inputs: Sequence[Any], kwargs: Mapping[str, Any], name: str, device: Device, loss: Loss | None = None
) -> Workload:
    """A trace without values: once more in another way, where torch or a lazy layer stands in the way of this one."""
    watch, on_meta, again = True, False, False
    while True:
        try:
            return Tracer(module, device, watch).run(inputs, kwargs, name, loss)
        except Uninitialised:
            module = _initialised(module, inputs, kwargs, device)
        except InputError as error:
            cause = error.__cause__
            if watch and private.refuses_subclass(cause):
                watch = False
            elif not on_meta and private.refuses_device(cause) and isinstance(module, nn.Module):
                module, on_meta = copies.on_meta(module), True
            elif not again and private.refuses_to_compile(cause):  # which has imported what a trace then holds back
                again = True
            else:
                raise


def _initialised(module: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any], device: Device) -> nn.Module:
    """A copy of a module whose lazy layers have the shapes that these inputs give them."""
    made = copies.with_lazy_weights_on_meta(module)
    _shaped(lambda *args, **options: made(*args, **options), inputs, kwargs, type(module).__name__, device)
    return copies.checked(made)


class Escapes(private.DispatchMode):
    """Hands the operators that no function of torch has called, those of scripted functions, to the trace."""

    def __init__(self, tracer: "Tracer"):
        super().__init__()
        self.tracer = weakref.proxy(tracer)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        with private.no_function_modes():
            if any(map(private.is_wrapper, types)):  # whose own class takes it apart
                return NotImplemented
            transformed = self.tracer.follow_gradients()
            if func in private.NOTHING and not (transformed and func is private.detach):
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
        chosen = results if loss is None else [shadows.shadow(x) for x in gradient.chosen(loss, result)]
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
        if value.is_nested:
            return nested.enter(self.emitter, value)
        if self.real and value.layout is torch.strided:
            value = value.detach().clone()
            shadows.cast(value, torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=values.META))
            self.ledger.enter(shadows.shadow(value), requires_grad)
            return value
        if not value.is_meta and value.layout is torch.strided and not values.keeps_values(value):
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
            with restored(modules), as_written(modules), torch.enable_grad(), self._module_hooks():
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
        tracer = _current.tracer
        if tracer is None and not private.is_compiled(module) and any(map(self.ledger.is_traced, values.tensors(args))):
            tracer = _current.tracer = self  # a thread of the forward's own
            _current.follows = self._modes()
        if tracer is self and not private.is_compiled(module):
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
        if self.closed or func in rules.QUESTIONS:  # closed: a thread that the forward has not waited for
            return func(*args, **kwargs)
        if self.escapes is None:
            if private.is_within_kernel(sys._getframe(1)):  # a part of what escapes
                return func(*args, **kwargs)
        elif private.transform_level() is not None:
            return self.transformed(func, args, kwargs)
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

    def transformed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Within torch.vmap, torch.func.grad and their like tensors are wrapped, and lie nowhere. The operation goes through
        them, and what they make of it, operators on plain tensors, reaches the mode below."""
        thread = self.emitter.thread
        before = thread.transformed, thread.differentiates
        thread.transformed = True
        try:
            with private.below_autograd():
                return func(*args, **kwargs)
        finally:
            thread.transformed, thread.differentiates = before

    def follow_gradients(self) -> bool:
        """Below a transform torch knows whether a gradient is to flow. Returns whether there is one."""
        thread = self.emitter.thread
        if thread.transformed:
            thread.differentiates = torch.is_grad_enabled()
        return thread.transformed

    @contextmanager
    def resumed(self, functions: bool = True) -> Iterator[None]:
        """Within an operation, code of the forward's own runs as any other; only its operators are seen without `functions`."""
        shown = self.escapes if self.escapes and not private.is_on_top(self.escapes) else None
        if shown:
            private.show(shown)
        try:
            with self if functions else nullcontext():
                yield
        finally:
            if shown:
                private.hide(shown)

    def rehearsed(self, function: Callable[..., Any], args: Sequence[Any]) -> int:
        """The MACs of a call that may be made later."""
        return Tracer(function, self.emitter.device, watch=self.escapes is not None).run(args, {}, "", None).macs

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
        """The same on real tensors: questions are answered by them, Python is opened, all else runs and is recorded. What a
        nested tensor is made of are real tensors too."""
        if any([x.is_nested for x in values.tensors((args, kwargs))]):
            if func is nn.functional.scaled_dot_product_attention:
                return nested.attention(self.emitter, *args, **kwargs)
            with self.resumed(functions=False), torch.no_grad():
                return func(*args, **kwargs)
        reads = getattr(func, "__name__", "") in meta_ops.READERS
        if reads:
            self.emitter.read()
        if reads or func in rules.TRANSPARENT:
            return func(*args, **kwargs)
        if func in control.OPERATORS:
            return control.OPERATORS[func](self, *args, **kwargs)
        named = func in rules.RULES or func in custom.RULES
        if not named and (isinstance(func, MethodWrapperType) or func is private.set_grad_enabled or self._opens(func)):
            return self._without_rule(func, args, kwargs)
        return shadows.run(self.emitter, func, args, kwargs, self._recorded)

    def _opens(self, func: Any) -> bool:
        return func not in self.emitter.thread.opened and rules.opened(func) is not None

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
            if func.__name__ == "__set__" and not is_lazy(args[0]) and self.ledger.is_outside(args[0]):
                attribute: Any = func.__self__
                self.undo.append((func, args[0], attribute.__get__(args[0])))
            return func(*args)
        if func is private.set_grad_enabled:
            if args[0] or torch.is_grad_enabled():  # else it was off already: within a custom function's forward
                self.emitter.thread.differentiates = bool(args[0])
            return func(*args)
        if func in control.OPERATORS:
            return control.OPERATORS[func](self, *args, **kwargs)
        running = self.emitter.thread.opened
        opened = rules.opened(func) if func not in running else None  # Tensor's Python methods call themselves
        if opened is not None:
            running.append(func)
            try:
                with self:
                    return opened(*args, **kwargs)
            finally:
                running.pop()
        with torch.no_grad():
            return meta_ops.run(self.emitter, func, args, kwargs)
