"""A module as an ONNX file, and the proof that the file answers as the module does."""

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina import files
from lamina.errors import InputError, LaminaError, first_line, reason
from lamina.extras import install_command

# From 23 on there is an operator for attention, of which ONNX Runtime 1.32 refuses masks of one row for all queries.
OPSET = 20


def export_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor | None],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
) -> Path:
    """Write `module`, as it is in evaluation mode, to the ONNX file `path`; what was there is replaced.

    `inputs` are the positional arguments of one call, with None for optional ones that are left out. Of each only shape and
    type count: they may be on the meta device, as `zoo.registry.example` gives them. With `dynamic_batch` the first axis of
    all inputs is one free batch size, else every size is fixed; all other axes are fixed either way. `opset` is the version
    of ONNX's operators, by default 20.

    Inputs are named as the arguments of `module.forward`, the (first) output "output". Weights that one file cannot hold (it
    has at most 2 GB) go to `path`.data beside it. The file appears whole or not at all. A `LaminaError` says in one line what
    cannot be exported or written.
    """
    path = Path(path)
    try:
        with files.replacing(path) as partial:
            program = convert(module, inputs, dynamic_batch=dynamic_batch, opset=opset)
            program.save(partial, external_data=False)
    except OSError as error:
        raise LaminaError(f"{path} cannot be written: {reason(error)}") from error
    return path


def convert(
    module: nn.Module, inputs: Sequence[Tensor | None], *, dynamic_batch: bool = True, opset: int | None = None
) -> torch.onnx.ONNXProgram:
    """What `export_onnx` writes, with the program of `torch.export` that it was made from (its `exported_program`)."""
    require("onnx", "onnxscript")
    if isinstance(inputs, Tensor):
        raise InputError("the inputs are a sequence of tensors, one for each argument: (x,)")
    name, opset = type(module).__name__, OPSET if opset is None else opset
    arguments = example(module, inputs, dynamic_batch)
    absent = next((i for i, x in enumerate(arguments) if x is None), len(arguments))  # the exporter takes no None
    names = list(inspect.signature(module.forward).parameters)
    keywords = {names[i]: x for i, x in enumerate(arguments) if i > absent and x is not None}
    # With a size of 1 (or 0) as the example it would take the batch for a constant, whatever it is told.
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for x in arguments if x is not None) if dynamic_batch else None
    with evaluating(module), quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                arguments[:absent],
                kwargs=keywords,
                dynamic_shapes=shapes,
                output_names=["output"],
                opset_version=opset,
                custom_translation_table=translations(),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, ValueError) as error:
            raise LaminaError(f"{name} cannot be exported to ONNX: {root(error)}") from error
    assert program is not None
    for value in program.model.graph.inputs if dynamic_batch else ():
        if value.shape is None or isinstance(value.shape[0], int):  # the exporter takes a free size for a wish
            raise LaminaError(f"{name} works for one batch size only, and is exported so with dynamic_batch=False")
    written = program.model.opset_imports[""]
    if opset != written:  # the exporter only logs it
        raise LaminaError(f"{name} cannot be exported to ONNX with opset {opset}, only with {written}")
    return program


def check_onnx(path: str | Path, module: nn.Module, inputs: Sequence[Tensor | None]) -> float:
    """The largest difference between what ONNX Runtime (on the CPU) makes of the file `path` and what `module` answers in
    evaluation mode, relative to the largest value of the module's output; of several outputs, the worst.

    `inputs` are as for `export_onnx`, but with values; the batch size may be another one where the file leaves it free.
    """
    require("onnxruntime")
    import onnxruntime  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    given = [x for x in inputs if x is not None]
    with evaluating(module), torch.inference_mode():
        result = module(*inputs)
    expected = [result] if isinstance(result, Tensor) else list(result)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [argument.name for argument in session.get_inputs()]
        outputs = session.run(None, {k: x.cpu().numpy() for k, x in zip(names, given, strict=True)})
    except Exception as error:  # ONNX Runtime's own errors share no class but this one
        raise LaminaError(f"{path} does not run: {root(error)}") from error
    if len(outputs) != len(expected):
        raise LaminaError(f"{path} has {len(outputs)} outputs, and {type(module).__name__} {len(expected)}")
    return max(relative(torch.as_tensor(ours), theirs.cpu()) for ours, theirs in zip(outputs, expected, strict=True))


def relative(value: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value. What is not finite, or of another shape, is an error."""
    if value.shape != expected.shape:
        raise LaminaError(f"ONNX Runtime's output has the shape {tuple(value.shape)}, torch's {tuple(expected.shape)}")
    if not expected.isfinite().all():
        raise LaminaError("torch's output is not finite: nothing can be compared with it")
    if not value.isfinite().all():
        return math.inf
    difference = (value.double() - expected.double()).abs().max().item()
    largest = expected.double().abs().max().item()
    return difference / largest if largest else math.inf if difference else 0.0


def require(*libraries: str) -> None:
    """An optional library that is missing, or does not load, is an error that says what to install."""
    for name in libraries:
        try:
            __import__(name)
        except ImportError as error:
            raise LaminaError(f"ONNX files need {name}: {install_command('onnx')} ({root(error)})") from error


def example(module: nn.Module, inputs: Sequence[Tensor | None], dynamic_batch: bool) -> tuple[Tensor | None, ...]:
    """The inputs to export with: none on the meta device, and of a free batch two entries."""
    place = next((t.device for t in chain(module.parameters(), module.buffers())), torch.device("cpu"))
    tensors = [x if x is None or x.device.type != "meta" else torch.zeros_like(x, device=place) for x in inputs]
    if dynamic_batch:
        sizes = [x.shape[0] if x.dim() else 0 for x in tensors if x is not None]
        if not sizes or len(set(sizes)) > 1 or 0 in sizes:
            raise InputError(f"the inputs share no batch axis, their first sizes being {sizes}: say dynamic_batch=False")
        tensors = [x if x is None else torch.cat((x, x))[:2] for x in tensors]
    return tuple(tensors)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators that the exporter translates wrongly. It leaves out `divisor_override`, and says nothing (onnxscript 0.7.2):
    LeNet-5's pools would average where they sum."""
    from onnxscript import opset18  # pyright: ignore[reportMissingImports]
    from onnxscript.function_libs.torch_lib.ops import nn as library  # pyright: ignore[reportMissingImports]

    op: Any = opset18  # its types are those of a script being compiled

    def pool(average: Callable[..., Any], rank: int) -> Callable[..., Any]:
        def translated(
            self: Any,
            kernel_size: Sequence[int],
            stride: Sequence[int] = (),
            padding: Sequence[int] = (0,),
            ceil_mode: bool = False,
            count_include_pad: bool = True,
            divisor_override: int | None = None,
        ) -> Any:
            if divisor_override is None:
                return average(self, kernel_size, stride, padding, ceil_mode, count_include_pad)
            if ceil_mode:  # nobody says what ONNX divides by where a window sticks out
                raise NotImplementedError("average pooling with both ceil_mode and divisor_override")
            size = math.prod(kernel_size) if len(kernel_size) > 1 else kernel_size[0] ** rank
            mean = average(self, kernel_size, stride, padding, False, True)
            return op.Mul(mean, op.CastLike(op.Constant(value_float=size / divisor_override), mean))

        return translated

    aten = torch.ops.aten
    return {
        aten.avg_pool2d.default: pool(library.aten_avg_pool2d, 2),
        aten.avg_pool3d.default: pool(library.aten_avg_pool3d, 3),
    }


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and afterwards every part of it in its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


# Who speaks of the exporter's insides: operators of torchvision that nobody asked for, what its optimizer skips, how it
# comes by an older opset.
TALKERS = (
    "torch.onnx._internal.exporter._registration",
    "torch.onnx._internal.exporter._compat",
    "onnxscript.optimizer._constant_folding",
    "onnxscript.version_converter",
)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without what torch 2.13's exporter and onnxscript 0.7 say of themselves. What matters of it is checked here."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in TALKERS}
    for logger in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"# The axis name: batch will not be used, .* another axis: batch\.", UserWarning)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def root(error: BaseException) -> str:
    """The first line of the error that all began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
