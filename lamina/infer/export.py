"""A module as an ONNX file, and the proof that the file answers as the module does."""

import inspect
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina import __version__, files
from lamina.errors import InputError, LaminaError, first_line, reason
from lamina.extras import install_command
from lamina.infer.networks import Network

# From 23 on there is an operator for attention, of which ONNX Runtime 1.32 refuses masks of one row for all queries.
OPSET = 20
TOLERANCE = 1e-4  # of the largest value: float32 in another order of summation


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
    with _exported(module, inputs, path, dynamic_batch, opset, {}):
        pass
    return path


def export_checked(
    module: nn.Module,
    inputs: Sequence[Tensor | None],
    path: str | Path,
    *,
    batch: int | None = None,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`export_onnx` of a file that ONNX Runtime has been seen to answer from as the module does: on batches of 1, 2 and 5, or
    of `batch` where that is the one size it is exported for. `metadata` go into the file, where every runtime finds them.

    Returns `describe(path)` with "file", "bytes" and "checked", the largest difference by batch, relative to the largest value
    of the output. Raises `LaminaError` where one is above 1e-4; what was at `path` is then left as it was.
    """
    path, sizes = Path(path), (1, 2, 5) if batch is None else (batch,)
    one = [x if x is None else torch.empty((batch or 1, *x.shape[1:]), dtype=x.dtype, device="meta") for x in inputs]
    with _exported(module, one, path, batch is None, opset, metadata or {}) as partial:
        checked = {str(size): check_onnx(partial, module, _sample(module, one, size)) for size in sizes}
        size, worst = max(checked.items(), key=lambda item: item[1])
        if worst > TOLERANCE:
            raise LaminaError(f"{path} is not written: of a batch of {size} it would answer {worst:.1e} off what torch does")
        described = describe(partial)
    return {"file": str(path), "bytes": path.stat().st_size} | described | {"checked": checked}


def to_metadata(net: Network) -> dict[str, str]:
    """What is known of a network as an ONNX file's metadata: texts as they are, all else as JSON. "image" are all fields of
    `lamina.data.image.ImageSpec`, "classes" the outputs' names; the softmax of "score_scale" times the scores is what the
    network was trained for."""
    known = {"lamina": __version__, "network": net.name, "weights": net.weights, **net.text}
    if net.image is not None:
        known |= {"image": json.dumps(asdict(net.image)), "score_scale": str(net.score_scale)}
    if net.classes:
        known["classes"] = json.dumps(list(net.classes))
    return known


def describe(path: str | Path) -> dict[str, Any]:
    """{"opset", "inputs", "outputs", "metadata"} of an ONNX file: inputs and outputs are {"name", "shape", "type"}, a free size
    being its name. External data are not read."""
    require("onnx")
    import onnx  # pyright: ignore[reportMissingImports]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the content is anybody's
        raise LaminaError(f"{path} is not an ONNX file: {first_line(error)}") from error

    def values(listed: Any) -> list[dict[str, Any]]:
        types = {value.name: value.type.tensor_type for value in listed}
        return [
            {
                "name": name,
                "shape": [size.dim_param or size.dim_value for size in kind.shape.dim],
                "type": onnx.TensorProto.DataType.Name(kind.elem_type).lower(),
            }
            for name, kind in types.items()
        ]

    opset = next(row.version for row in model.opset_import if row.domain in ("", "ai.onnx"))
    metadata = {row.key: row.value for row in model.metadata_props}
    return {"opset": opset, "inputs": values(model.graph.input), "outputs": values(model.graph.output), "metadata": metadata}


@contextmanager
def _exported(
    module: nn.Module,
    inputs: Sequence[Tensor | None],
    path: Path,
    dynamic_batch: bool,
    opset: int | None,
    metadata: Mapping[str, str],
) -> Iterator[Path]:
    """The exported file under another name; after the block it takes its own."""
    try:
        with files.replacing(path) as partial:
            program = convert(module, inputs, dynamic_batch=dynamic_batch, opset=opset)
            program.model.metadata_props.update(metadata)
            program.save(partial, external_data=False)
            yield partial
    except OSError as error:
        raise LaminaError(f"{path} cannot be written: {reason(error)}") from error


def _sample(module: nn.Module, inputs: Sequence[Tensor | None], batch: int) -> list[Tensor | None]:
    """Inputs with values: normal ones, tokens that every embedding has, and masks that hide nothing."""
    random = torch.Generator().manual_seed(batch)
    place = next((t.device for t in chain(module.parameters(), module.buffers())), torch.device("cpu"))
    tokens = min((m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)), default=2)

    def values(x: Tensor) -> Tensor:
        shape = (batch, *x.shape[1:])
        if x.dtype == torch.bool:
            return torch.zeros(shape, dtype=torch.bool)
        if x.is_floating_point():
            return torch.randn(shape, generator=random).to(x.dtype)
        return torch.randint(tokens, shape, generator=random, dtype=x.dtype)

    return [x if x is None else values(x).to(place) for x in inputs]


def convert(
    module: nn.Module,
    inputs: Sequence[Tensor | None],
    *,
    dynamic_batch: bool = True,
    opset: int | None = None,
    optimize: bool = True,
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
                optimize=optimize,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, ValueError) as error:
            raise LaminaError(f"{name} cannot be exported to ONNX: {root(error)}") from error
    assert program is not None
    for value in program.model.graph.inputs if dynamic_batch else ():
        if value.shape is None or isinstance(value.shape[0], int):  # the exporter takes a free size for a wish
            raise LaminaError(
                f"{name} works for one batch size only: export it with a fixed one (--batch N; dynamic_batch=False)"
            )
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
    several = result.values() if isinstance(result, Mapping) else result  # what transformers' networks return
    expected = [result] if isinstance(result, Tensor) else [x for x in several if isinstance(x, Tensor)]
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
    """The module in evaluation mode, and afterwards every submodule in its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


# Loggers that describe the exporter's insides: operators of torchvision that nobody asked for, what its optimizer skips, how it
# comes by an older opset.
LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch.onnx._internal.exporter._compat",
    "onnxscript.optimizer._constant_folding",
    "onnxscript.version_converter",
)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without what torch 2.13's exporter and onnxscript 0.7 log about themselves. What matters of it is checked here."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
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
