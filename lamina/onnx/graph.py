"""An ONNX file becomes a `Workload`: every node once, in the file's order, by shapes alone. No weight is read.

What is a parameter. A file does not tell parameters from other constants, so the rule is by use. A stored tensor is a
parameter if it reaches (also through DequantizeLinear, Transpose, Split and other operators on constants alone) a weight,
bias or scale input of a convolution, product, recurrence, norm or embedding; an initializer of more than one element also if
it is added, multiplied or concatenated to an activation (a bias after a product, positions, a class token), and so is one
that nothing uses. The value of a `Constant` node is one only if it is of floating point and feeds the first kind of input.
Hence tables that a module holds as buffers, such as sinusoids, are parameters in its file. Other initializers of more than
one number (running statistics, scales and zero points, fixed means and masks) are buffers. A parameter has the type that it
is stored in; packed 4-bit weights have the shape that they are stored in.

Exporters change parameters. They fold batch norms into convolutions: scale and shift are then one bias. They merge
initializers of equal values, as networks that were never trained have. They write a tied embedding a second time,
transposed, for the product: the two are one `Weight` if the file itself holds the data.

What runs once, when the file is loaded, is free: nodes on constants alone, and the arithmetic of shapes. Of an If whose
condition is no constant the branch with more MACs is counted (the layer's attributes name it). A Loop's body is counted once,
its products and other arithmetic `trips` times; a trip count that is no constant, or sizes that change from step to step, are
listed as unknown. Scan counts its body as many times as its sequence is long. Bytes and lifetimes are those of one step.
"""

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lamina.errors import InputError, LaminaError, first_line
from lamina.extras import install_command

try:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, defs, numpy_helper
    from onnx.checker import ValidationError
    from onnx.shape_inference import InferenceError
except ImportError as error:
    raise LaminaError(f"ONNX files need onnx: {install_command('onnx')}") from error

from lamina.onnx import microsoft, ops
from lamina.onnx.file import load, one_line, small_data
from lamina.onnx.names import module_of
from lamina.onnx.record import Record, Step, Stored, finish, part_of
from lamina.onnx.values import (
    FLOATS,
    QUANTISED,
    MissingInput,
    Node,
    UnknownShape,
    Value,
    attributes,
    dtype_of,
    fold,
    infer,
    plain,
    recorded,
)
from lamina.operators import Shape, ShapeError
from lamina.workload import Kind, Loops, Tensor, Workload

Scope = ChainMap[str, Value]
Claim = tuple[int | str, ...]  # a size, or the name of a free one ("?" without a name)
STANDARD = ("", "ai.onnx")


def read(path: str | Path, inputs: Mapping[str, Shape] = {}) -> Workload:
    """The `Workload` of the ONNX file `path`, for inputs of the sizes that the file fixes and `inputs` sets by name.

    An `InputError` says which input has free sizes and how to set them; a `LaminaError` what is wrong with the file, such as
    a shape that it claims and its operators contradict, with the node's name. Operators that are not known are in the
    record's coverage. Lifetimes are those of the last use.
    """
    path = Path(path)
    with one_line():
        return Reader(path, load(path)).run(inputs)


def describe_inputs(path: str | Path) -> dict[str, Claim | None]:
    """The inputs of an ONNX file: of each its sizes, a free one by its name ("?" if it has none); None if any shape will do."""
    with one_line():
        model = load(Path(path))
    return {value.name: claim(value) for value in graph_inputs(model.graph)}


def graph_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Old files list their initializers among the inputs."""
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in stored]


def claim(value: ValueInfoProto) -> Claim | None:
    """The sizes that the file states for a tensor. Some exporters write 0 or -1 for a free size."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in value.type.tensor_type.shape.dim)


class Reader:
    """The state of one reading."""

    def __init__(self, path: Path, model: ModelProto):
        self.path, self.graph = path, model.graph
        self.ir_version = model.ir_version
        self.opsets = {"" if o.domain in STANDARD else o.domain: o.version for o in model.opset_import}
        self.record = Record()
        self.tensors: list[tuple[Shape, str, int]] = []  # shape, type, storage
        self.storages: list[int] = []  # bytes
        self.stored: list[Stored] = []
        self.symbols: dict[str, int] = {}

    def run(self, inputs: Mapping[str, Shape]) -> Workload:
        scope: Scope = ChainMap()
        given = self.enter(inputs)
        scope.update(given)
        outputs = self.walk(self.graph, scope, "")
        entered = [v.tensor for v in given.values() if v.tensor is not None]
        ends = {v.tensor for v in outputs}
        return finish(self.path.stem, self.record, self.tensors, self.storages, self.stored, entered, ends)

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def enter(self, inputs: Mapping[str, Shape]) -> dict[str, Value]:
        values = {value.name: value for value in graph_inputs(self.graph)}
        strangers = [name for name in inputs if name not in values]
        if strangers:
            raise InputError(f"{self.path} has no input {strangers[0]!r}: its inputs are {', '.join(values) or 'none'}")
        others = [name for name in inputs if not values[name].type.HasField("tensor_type")]
        if others:
            raise InputError(
                f"{self.path}: the input {others[0]} is no tensor (a sequence or an optional one), and has no sizes"
            )
        claims = {name: claim(value) for name, value in values.items()}
        for name, shape in inputs.items():
            self.check_input(name, tuple(shape), claims[name])
        shapes: dict[str, Shape | None] = {}
        free: list[str] = []
        for name, sizes in claims.items():
            if name in inputs:
                shapes[name] = tuple(inputs[name])
            elif sizes is None and values[name].type.HasField("tensor_type"):
                free.append(name)
            else:
                shapes[name] = self.resolve(sizes) if sizes is not None else None
                free += [name] if sizes is not None and shapes[name] is None else []
        if free:
            said = " and ".join(f"{name} ({' x '.join(map(str, claims[name] or ('any shape',)))})" for name in free)
            how = " ".join(f"--input {name}={example(claims[name])}" for name in free)
            raise InputError(f"{self.path}: set the free sizes of the input{'s' if free[1:] else ''} {said}, as in {how}")
        entered: dict[str, Value] = {}
        for name, shape in shapes.items():
            dtype = dtype_of(values[name].type.tensor_type.elem_type)
            entered[name] = self.activation(shape, dtype) if shape is not None else Value(None, dtype)
        return entered

    def check_input(self, name: str, shape: Shape, sizes: Claim | None) -> None:
        text = "x".join(map(str, shape))
        if any(not isinstance(s, int) or s < 1 for s in shape):
            raise InputError(f"input {name}: {text} is no shape: sizes are 1 or more")
        if sizes is None:
            return
        if len(shape) != len(sizes):
            raise InputError(f"input {name} has {len(sizes)} axes ({' x '.join(map(str, sizes))}), got {text}")
        for size, wanted in zip(shape, sizes, strict=True):
            if isinstance(wanted, int) and size != wanted:
                raise InputError(f"input {name} is fixed to {' x '.join(map(str, sizes))} in {self.path}, got {text}")
            if isinstance(wanted, str) and wanted != "?" and self.symbols.setdefault(wanted, size) != size:
                raise InputError(f"input {name}: {wanted} is {size} here and {self.symbols[wanted]} in another input")

    def resolve(self, sizes: Claim) -> Shape | None:
        known = [s if isinstance(s, int) else self.symbols.get(s) for s in sizes]
        return None if any(s is None for s in known) else tuple(s for s in known if s is not None)

    # ---- tensors ----------------------------------------------------------------------------------------------------

    def activation(self, shape: Shape, dtype: str, like: Value | None = None) -> Value:
        """A new tensor, in a storage of its own or in that of `like`."""
        storage = self.tensors[like.tensor][2] if like is not None and like.tensor is not None else len(self.storages)
        if storage == len(self.storages):
            self.storages.append(Tensor(0, shape, recorded(dtype), 0, 0, "activation", False).bytes)
        self.tensors.append((shape, dtype, storage))
        return Value(shape, dtype, tensor=len(self.tensors) - 1)

    def keep(self, name: str, tensor: TensorProto, constant_node: bool, where: str) -> Value:
        shape, dtype = tuple(tensor.dims), dtype_of(tensor.data_type)
        held = Stored((where + name,), shape, dtype, tensor, constant_node)
        self.stored.append(held)
        return Value(shape, dtype, small_data(tensor), True, (held,))

    # ---- the graph --------------------------------------------------------------------------------------------------

    def walk(self, graph: GraphProto, scope: Scope, where: str) -> list[Value]:
        """Visit a graph's nodes; `scope` holds its inputs. Returns its outputs."""
        for tensor in graph.initializer:
            if tensor.name in scope.maps[0]:
                raise LaminaError(f"{self.path}: two tensors are called {tensor.name}")
            scope[tensor.name] = self.keep(tensor.name, tensor, False, where)
        for sparse in graph.sparse_initializer:
            name, shape = sparse.values.name, tuple(sparse.dims)
            held = Stored((where + name,), shape, dtype_of(sparse.values.data_type), None, False)
            self.stored.append(held)
            scope[name] = Value(shape, held.dtype, None, True, (held,))
        claims = {v.name: claim(v) for v in (*graph.value_info, *graph.output)}
        for place, proto in enumerate(graph.node):
            label = where + (proto.name or f"{proto.op_type}_{place}")
            given = [self.look_up(name, scope, graph, label) if name else None for name in proto.input]
            try:
                results = self.visit(proto, label, given, scope)
            except ShapeError as error:
                raise InputError(f"{self.at(label, proto)}: {error}") from error
            except MissingInput as error:
                raise LaminaError(f"{self.at(label, proto)} {error}") from error
            except LaminaError:
                raise
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # a file may say anything
                raise LaminaError(f"{self.at(label, proto)}: its attributes do not fit it ({first_line(error)})") from error
            for name, value in zip(proto.output, results, strict=False):
                if name in scope.maps[0]:
                    raise LaminaError(f"{self.at(label, proto)} makes {name} a second time")
                if name:
                    self.compare(name, value, claims.get(name), label, proto)
                    scope[name] = value
        return [self.look_up(v.name, scope, graph, "the graph's output") for v in graph.output]

    def at(self, label: str, proto: NodeProto) -> str:
        return f"{self.path}: node {label} ({proto.op_type})"

    def look_up(self, name: str, scope: Scope, graph: GraphProto, label: str) -> Value:
        found = scope.get(name)
        if found is None:
            later = next((n for n in graph.node if name in n.output), None)
            why = f"only {later.name or later.op_type} makes, later or from it (a cycle)" if later else "nothing makes"
            raise LaminaError(f"{self.path}: {label} reads {name}, which {why}")
        for held in found.sources:
            held.used = True
        return found

    def compare(self, name: str, value: Value, sizes: Claim | None, label: str, proto: NodeProto) -> None:
        """Hold what the file claims of a tensor against what its operator makes; take it where nothing else is known."""
        if sizes is None:
            return
        if value.shape is None:
            shape = self.resolve(sizes)
            if shape is not None:
                made = self.activation(shape, value.dtype)
                value.shape, value.tensor = shape, made.tensor
                if self.record.steps and not value.constant:
                    self.record.steps[-1].outputs.append(len(self.tensors) - 1)
        elif len(sizes) != len(value.shape) or any(
            isinstance(c, int) and c != s for c, s in zip(sizes, value.shape, strict=True)
        ):
            text = "x".join(map(str, value.shape)) or "a scalar"
            said = "x".join(map(str, sizes)) or "a scalar"
            raise LaminaError(f"{self.at(label, proto)}: the file says that {name} is {said}, and the node makes {text}")

    def visit(self, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
        domain = "" if proto.domain in STANDARD else proto.domain
        if domain == "" and proto.op_type in ("If", "Loop", "Scan"):
            return getattr(self, proto.op_type.lower() + "_")(proto, label, given, scope)
        found = attributes(proto)
        if domain == "" and proto.op_type == "Constant":
            self.record.free += 1
            return [self.constant(proto, found)]
        opset = self.opsets.get(domain, 1)
        node = Node(proto.op_type, domain, label, proto, found, given, opset, len(self.tensors))
        known = domain == "" or domain == "com.microsoft"
        failure = self.infer(node, known)
        sized = False  # an operator that is known, of tensors whose sizes are not
        try:
            cost = ops.cost(node) if known else None
        except UnknownShape:
            sized = True
            free = node.op in ops.VIEWS or node.op in ops.COPIES
            cost = ops.Cost("copy") if free else None
        if failure is not None:
            raise LaminaError(f"{self.at(label, proto)}: {failure}")
        inputs = [v for v in given if v is not None]
        fixed = all(v.constant for v in inputs) or (node.op in ("Shape", "Size") and node.value(0).shape is not None)
        if cost is not None and not cost.loops and fixed and node.op not in ops.RANDOM:
            self.record.free += 1
            return self.constants(node)
        return self.emit(node, cost, sized)

    def infer(self, node: Node, known: bool) -> str | None:
        """Set the node's output shapes; what the standard finds wrong with it is returned."""
        node.outputs = [(None, "float32")] * len(node.proto.output)
        shapes = microsoft.SHAPES.get(node.op)
        standard = node.domain == "" and defs.has(node.op, node.opset, "")
        try:
            if standard:
                if all(v is None or v.shape is not None for v in node.inputs):
                    node.outputs = infer(node, self.opsets, self.ir_version)
            elif known and shapes is not None:
                node.outputs = shapes(node)[: len(node.proto.output)]
        except UnknownShape:
            pass
        except (InferenceError, ValidationError) as error:
            text = first_line(error)
            return text[text.rfind("): ") + 3 :] if "): " in text else text
        return None

    def constant(self, proto: NodeProto, found: dict[str, Any]) -> Value:
        if isinstance(found.get("value"), TensorProto):
            return self.keep(proto.output[0], found["value"], True, "")
        for kind in ("value_float", "value_floats"):
            if kind in found:
                data = np.array(found[kind], np.float32)
                return self.keep(proto.output[0], numpy_helper.from_array(data), True, "")
        for kind in ("value_int", "value_ints"):
            if kind in found:
                data = np.array(found[kind], np.int64)
                return Value(data.shape, "int64", data, True)
        if "sparse_value" in found:
            sparse = found["sparse_value"]
            return Value(tuple(sparse.dims), dtype_of(sparse.values.data_type), None, True)
        return Value(np.shape(found.get("value_strings", "")), "STRING", None, True)

    def constants(self, node: Node) -> list[Value]:
        """What a node makes of constants; made of floating-point (or quantised) tensors it may still be a parameter."""
        data = fold(node)
        sources: dict[Stored, None] = {}
        first_only = node.op in ("DequantizeLinear", "QuantizeLinear")
        for i, value in enumerate(node.inputs):
            if value is not None and node.op not in ("Shape", "Size"):
                wanted = i == 0 if first_only else value.dtype in FLOATS or value.dtype in QUANTISED
                sources.update(dict.fromkeys(value.sources if wanted else ()))
        if len(sources) > 1:
            sources = {held: None for held in sources if math.prod(held.shape) > 1} or sources
        results = []
        for i, (shape, dtype) in enumerate(node.outputs):
            value = data[i] if data is not None and i < len(data) else None
            results.append(Value(shape if value is None else value.shape, dtype, value, True, tuple(sources)))
        return results

    def emit(self, node: Node, cost: ops.Cost | None, known: bool) -> list[Value]:
        """Record a node that runs each time; its outputs are new tensors, a view's in its input's storage. Without a cost
        its operator is unknown, or, if `known`, its sizes are."""
        kind = "other" if cost is None else cost.kind
        weights = self.parameters(node)
        viewed = node.inputs[0] if kind == "view" and node.inputs else None
        results = [
            self.activation(shape, dtype, viewed) if shape is not None and name else Value(shape, dtype)
            for (shape, dtype), name in zip(node.outputs, node.proto.output, strict=False)
        ]
        inputs = [v.tensor for v in node.inputs if v is not None and v.tensor is not None]
        if cost is None:
            name = f"{node.domain}.{node.op}" if node.domain else node.op
            name += " (its sizes depend on values)" if known else ""
            shapes = [[v.shape for v in group if v is not None and v.shape is not None] for group in (node.inputs, results)]
            self.step(node.proto, node.label, node.attributes, "other", inputs, results, weights)
            self.record.steps[-1].unknown = (name, tuple(shapes[0]), tuple(shapes[1]))
            return results
        self.step(node.proto, node.label, node.attributes, kind, inputs, results, weights, cost.loops, cost.ops)
        if kind in ("view", "copy", "embedding"):
            self.record.free += 1
        else:
            self.record.counted += 1
        return results

    def step(
        self,
        proto: NodeProto,
        label: str,
        found: dict[str, Any],
        kind: Kind,
        inputs: list[int],
        results: Sequence[Value],
        weights: Sequence[Stored] = (),
        loops: tuple[Loops, ...] = (),
        ops: dict[str, int] | None = None,
    ) -> None:
        module, module_type = module_of(proto, label, kind, weights)
        outputs = [v.tensor for v in results if v.tensor is not None]
        self.record.steps.append(
            Step(
                label, module, module_type, proto.op_type, kind, plain(found), inputs, outputs, list(weights), loops, ops or {}
            )
        )

    def parameters(self, node: Node) -> list[Stored]:
        """The stored tensors among a node's inputs that are parameters (see above)."""
        roles, found = ops.weight_inputs(node), dict[Stored, None]()
        for i, value in enumerate(node.inputs):
            if value is None or not value.constant:
                continue
            for held in value.sources:
                part = roles.get(i)
                number = held.dtype in FLOATS or held.dtype in QUANTISED or (part == "bias" and held.dtype == "int32")
                if node.op == "Gather" and len(held.shape) < 2:
                    continue
                if part is None and node.op in ops.BESIDE and math.prod(held.shape) > 1 and not held.constant_node:
                    part = part_of(held, node.op)
                if part is None or not number or (held.constant_node and held.dtype not in FLOATS):
                    continue
                held.part = held.part or part
                held.table = held.table or node.op == "Gather"
                found[held] = None
        return list(found)

    # ---- subgraphs --------------------------------------------------------------------------------------------------

    def apart(self, graph: GraphProto, scope: Scope, values: Mapping[str, Value], where: str) -> tuple[list[Value], Record]:
        """A subgraph's outputs, and its record apart from this one."""
        outer, self.record = self.record, Record()
        try:
            outputs = self.walk(graph, scope.new_child(dict(values)), where)
            return outputs, self.record
        finally:
            self.record = outer

    def if_(self, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
        found = attributes(proto)
        branches = [k for k in ("then_branch", "else_branch") if isinstance(found.get(k), GraphProto)]
        if len(branches) < 2 or not given or given[0] is None:
            raise MissingInput("lacks its condition or a branch")
        condition = given[0].data
        why = "the costlier"
        if condition is not None and condition.size == 1:
            branches, why = [branches[0 if condition.all() else 1]], "the condition is constant"
        results = {b: self.apart(found[b], scope, {}, f"{label}/{b.removesuffix('_branch')}/") for b in branches}
        chosen = max(results, key=lambda b: sum(step.macs for step in results[b][1].steps))
        values, record = results[chosen]
        self.record.add(record)
        if len(branches) == 1:
            self.record.free += 1
            return values
        made = [self.activation(v.shape, v.dtype, v) if v.shape is not None else Value(None, v.dtype) for v in values]
        inputs = [v.tensor for v in (given[0], *values) if v.tensor is not None]
        self.step(proto, label, {"branch": chosen.removesuffix("_branch"), "why": why}, "view", inputs, made)
        self.record.free += 1
        return made

    def loop_(self, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
        body = attributes(proto).get("body")
        if not isinstance(body, GraphProto) or len(body.input) < 2 or len(given) < len(body.input):
            raise MissingInput("lacks its body or a value that the body takes")
        start = given[2 : len(body.input)]
        carried = [self.moving(v) for v in start]
        entered = [Value((), "int64"), Value((), "bool", np.array(True), True), *carried]  # it runs while that is true
        values = {v.name: value for v, value in zip(body.input, entered, strict=True)}
        outputs, record = self.apart(body, scope, values, f"{label}/")
        kept, stacked = outputs[1 : 1 + len(carried)], outputs[1 + len(carried) :]
        trips = self.trips(given, outputs[0])
        changing = any(a.shape != b.shape for a, b in zip(carried, kept, strict=True))
        self.record.add(record, 1 if trips is None else trips) if trips != 0 else None
        final = [a if trips == 0 and a is not None else b for a, b in zip(start, kept, strict=True)]
        results = [self.moving(v, changing) for v in final]
        for v in stacked:
            shape = (trips, *v.shape) if trips is not None and v.shape is not None and not changing else None
            results.append(self.activation(shape, v.dtype) if shape is not None else Value(None, v.dtype))
        inputs = [v.tensor for v in (*given, *kept, *stacked) if v is not None and v.tensor is not None]
        self.step(proto, label, {} if trips is None else {"trips": trips}, "copy", list(dict.fromkeys(inputs)), results)
        if trips is None or changing:
            why = "its number of steps depends on values: one counted" if trips is None else "sizes change from step to step"
            shapes = [[v.shape for v in group if v is not None and v.shape is not None] for group in (given, results)]
            self.record.steps[-1].unknown = (f"Loop ({why})", tuple(shapes[0]), tuple(shapes[1]))
        else:
            self.record.free += 1
        return results

    def trips(self, given: Sequence[Value | None], after: Value) -> int | None:
        """How often a loop runs, if its inputs and the condition `after` a step are constants."""
        limit, condition = given[0], given[1]
        if condition is not None and condition.data is not None and not condition.data.any():
            return 0
        if (condition is not None and condition.data is None) or after.data is None:
            return None
        most = None if limit is None or limit.data is None else max(int(limit.data.reshape(-1)[0]), 0)
        if after.data.all():
            return most
        return 1 if limit is None else None if most is None else min(most, 1)

    def moving(self, value: Value | None, lost: bool = False) -> Value:
        """A value that a loop carries: nothing is known of it from step to step but its shape, which may be `lost` too."""
        if value is None:
            raise MissingInput("lacks a value that its body takes")
        if value.shape is None:
            return Value(None, value.dtype)
        if value.tensor is not None:
            return Value(value.shape, value.dtype, tensor=value.tensor)
        return self.activation(value.shape, value.dtype)

    def scan_(self, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
        found = attributes(proto)
        body, old = found.get("body"), self.opsets.get("", 1) < 9
        values = [v for v in (given[1:] if old else given) if v is not None]  # opset 8: lengths first, and a batch axis
        count = found.get("num_scan_inputs", 0)
        if not isinstance(body, GraphProto) or len(values) != len(body.input) or not 0 < count <= len(values):
            raise MissingInput("lacks its body or a value that the body takes")
        states, scanned = values[: len(values) - count], values[len(values) - count :]
        axes = found.get("scan_input_axes", (0,) * count)
        batch = 1
        steps: set[int] = set()
        entered = []
        for value in states:
            shape = None if value.shape is None else value.shape[1:] if old else value.shape
            entered.append(self.activation(shape, value.dtype) if shape is not None else Value(None, value.dtype))
        for value, axis in zip(scanned, axes, strict=True):
            if value.shape is None:
                entered.append(Value(None, value.dtype))
                continue
            if len(value.shape) < (2 if old else 1):
                raise ShapeError(f"cannot scan an input of the shape {value.shape}")
            batch, shape = (value.shape[0], value.shape[1:]) if old else (1, value.shape)
            place = axis % len(shape)
            steps.add(shape[place])
            entered.append(self.activation((*shape[:place], *shape[place + 1 :]), value.dtype))
        if len(steps) > 1:
            raise ShapeError(f"scans inputs of different lengths: {' and '.join(map(str, sorted(steps)))}")
        length = steps.pop() if steps else None
        names = {v.name: value for v, value in zip(body.input, entered, strict=True)}
        outputs, record = self.apart(body, scope, names, f"{label}/")
        self.record.add(record, 1 if length is None else length * batch)
        lead = (batch,) if old else ()
        results = []
        out_axes = found.get("scan_output_axes", (0,) * len(outputs))
        for i, value in enumerate(outputs):
            if value.shape is None or (length is None and i >= len(states)):
                results.append(Value(None, value.dtype))
                continue
            shape = value.shape
            if i >= len(states) and length is not None:
                place = out_axes[i - len(states)] % (len(shape) + 1)
                shape = (*shape[:place], length, *shape[place:])
            results.append(self.activation((*lead, *shape), value.dtype))
        inputs = [v.tensor for v in (*values, *outputs) if v.tensor is not None]
        self.step(proto, label, {} if length is None else {"steps": length}, "copy", list(dict.fromkeys(inputs)), results)
        if length is None:
            self.record.steps[-1].unknown = ("Scan (its length depends on values: one step counted)", (), ())
        else:
            self.record.free += 1
        return results


def example(sizes: Claim | None) -> str:
    """Sizes to set: those that are fixed, 1 for the batch, the usual ones for pictures and sequences."""
    if sizes is None:
        return "1x3x224x224"
    usual = [1, 3, 224, 224] if len(sizes) == 4 else [1, *[128] * len(sizes)]
    return "x".join(str(s if isinstance(s, int) else usual[i]) for i, s in enumerate(sizes))
