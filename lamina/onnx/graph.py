"""An ONNX file becomes a `Workload`: every node once, in the file's order, by shapes alone. No weight is read.

What runs once, when the file is loaded, is free: nodes on constants alone, and the arithmetic of shapes. `parameters` says
which stored tensors are parameters, `control` how often a loop's body runs. Bytes and lifetimes are those of one step of a
loop.
"""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamina import units
from lamina.errors import InputError, LaminaError, first_line
from lamina.extras import install_command

try:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper
    from onnx.checker import ValidationError
    from onnx.shape_inference import InferenceError
except ImportError as error:
    raise LaminaError(f"ONNX files need onnx: {install_command('onnx')}") from error

from lamina.onnx import costs, microsoft, shapes
from lamina.onnx.assemble import assemble
from lamina.onnx.constants import fold, folded
from lamina.onnx.control import CONTROL, Scope
from lamina.onnx.dtypes import dtype_of
from lamina.onnx.file import load, one_line
from lamina.onnx.inputs import Claim, Sizes, claim, graph_inputs
from lamina.onnx.record import Ledger
from lamina.onnx.values import MissingInput, Node, UnknownShape, Value, attributes
from lamina.operators import Shape, ShapeError, shape_text
from lamina.workload import Workload

STANDARD = ("", "ai.onnx")


def read(path: str | Path, inputs: Mapping[str, Shape] = {}, values: Mapping[str, np.ndarray] = {}) -> Workload:
    """The `Workload` of the ONNX file `path`, for inputs of the sizes that the file fixes and `inputs` sets by name. Of those
    in `values` the values are known too: a number of steps, a length, positions. They set the sizes of these inputs, and
    decide what depends on them; what they pass through is counted all the same.

    An `InputError` says which input has free sizes and how to set them; a `LaminaError` what is wrong with the file, such as
    a shape that it claims and its operators contradict, with the node's name. Operators that are not known are in the
    record's coverage. Lifetimes are those of the last use.
    """
    path = Path(path)
    with one_line():
        return GraphReader(path, load(path)).run(inputs, values)


def describe_inputs(path: str | Path) -> dict[str, Claim | None]:
    """The inputs of an ONNX file: of each its sizes, a free one by its name ("?" if it has none); None if any shape will do."""
    with one_line():
        model = load(Path(path))
    return {value.name: claim(value) for value in graph_inputs(model.graph)}


class GraphReader:
    """One reading of a file: it visits the nodes in order, looks up what is known of their inputs, and writes them down."""

    def __init__(self, path: Path, model: ModelProto):
        self.path, self.graph = path, model.graph
        self.ir_version = model.ir_version
        self.opsets = {"" if o.domain in STANDARD else o.domain: o.version for o in model.opset_import}
        self.sizes = Sizes(path)
        self.ledger = Ledger()
        self.repeated = 0

    def run(self, inputs: Mapping[str, Shape], values: Mapping[str, np.ndarray]) -> Workload:
        scope: Scope = ChainMap()
        inputs = dict(inputs) | {name: np.shape(value) for name, value in values.items()}
        entered: list[int] = []
        types = {value.name: value.type.tensor_type.elem_type for value in graph_inputs(self.graph)}
        for name, shape in self.sizes.of(self.graph, inputs).items():
            dtype = dtype_of(types[name])
            scope[name] = Value(None, dtype) if shape is None else self.ledger.activation(shape, dtype)
            if name in values:
                scope[name].data = np.asarray(values[name]).astype(helper.tensor_dtype_to_np_dtype(types[name]))
            entered += [] if shape is None else [len(self.ledger.tensors) - 1]
        outputs = self.walk(self.graph, scope, "")
        return assemble(self.path.stem, self.ledger, entered, {v.tensor for v in outputs})

    def walk(self, graph: GraphProto, scope: Scope, where: str) -> list[Value]:
        """Visit a graph's nodes; `scope` holds its inputs, and `where` is its place in the file. Returns its outputs."""
        self._enter_stored(graph, scope, where)
        claims = {v.name: claim(v) for v in (*graph.value_info, *graph.output)}
        for place, proto in enumerate(graph.node):
            label = where + (proto.name or f"{proto.op_type}_{place}")
            given = [self._look_up(name, scope, graph, label) if name else None for name in proto.input]
            results = self._visit_or_say_why(proto, label, given, scope)
            for name, value in zip(proto.output, results, strict=False):
                if name in scope.maps[0]:
                    raise LaminaError(f"{self._at(label, proto)} makes {name} a second time")
                if name:
                    self._compare(name, value, claims.get(name), label, proto)
                    scope[name] = value
        return [self._look_up(v.name, scope, graph, "the graph's output") for v in graph.output]

    def _enter_stored(self, graph: GraphProto, scope: Scope, where: str) -> None:
        for tensor in graph.initializer:
            if tensor.name in scope.maps[0]:
                raise LaminaError(f"{self.path}: two tensors are called {tensor.name}")
            scope[tensor.name] = self.ledger.initializer(tensor, where)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self.ledger.sparse(sparse.values, tuple(sparse.dims), where)

    def _visit_or_say_why(self, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
        try:
            return self._visit(proto, label, given, scope)
        except ShapeError as error:
            raise InputError(f"{self._at(label, proto)}: {error}") from error
        except MissingInput as error:
            raise LaminaError(f"{self._at(label, proto)} {error}") from error
        except LaminaError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # a file may say anything
            raise LaminaError(f"{self._at(label, proto)}: its attributes do not fit it ({first_line(error)})") from error

    def _at(self, label: str, proto: NodeProto) -> str:
        return f"{self.path}: node {label} ({proto.op_type})"

    def _look_up(self, name: str, scope: Scope, graph: GraphProto, label: str) -> Value:
        found = scope.get(name)
        if found is None:
            later = next((n for n in graph.node if name in n.output), None)
            why = f"only {later.name or later.op_type} makes, later or from it (a cycle)" if later else "nothing makes"
            raise LaminaError(f"{self.path}: {label} reads {name}, which {why}")
        for held in found.sources:
            held.used = True
        return found

    def _compare(self, name: str, value: Value, sizes: Claim | None, label: str, proto: NodeProto) -> None:
        """Hold what the file claims of a tensor against what its operator makes; take it where nothing else is known."""
        if sizes is None:
            return
        if value.shape is None:
            shape = self.sizes.resolve(sizes)
            if shape is not None:
                made = self.ledger.activation(shape, value.dtype)
                value.shape, value.tensor = shape, made.tensor
                if self.ledger.record.steps and not value.constant:
                    self.ledger.record.steps[-1].outputs.append(len(self.ledger.tensors) - 1)
        elif len(sizes) != len(value.shape) or any(
            isinstance(c, int) and c != s for c, s in zip(sizes, value.shape, strict=True)
        ):
            said = units.shape(sizes) or "scalar"
            made = shape_text(value.shape)
            raise LaminaError(f"{self._at(label, proto)}: the file says that {name} is {said}, and the node makes {made}")

    def _visit(self, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
        domain = "" if proto.domain in STANDARD else proto.domain
        if domain == "" and proto.op_type in CONTROL:
            return CONTROL[proto.op_type](self, proto, label, given, scope)
        found = attributes(proto)
        if domain == "" and proto.op_type == "Constant":
            self.ledger.record.free += 1
            return [self._constant(proto, found, label)]
        opset = self.opsets.get(domain, 1)
        node = Node(proto.op_type, domain, label, proto, found, given, opset, len(self.ledger.tensors))
        known = domain == "" or domain == "com.microsoft"
        failure = self._infer(node, known)
        sized = False  # an operator that is known, of tensors whose sizes are not
        try:
            cost = costs.cost(node) if known else None
        except UnknownShape:
            sized = True
            free = node.op in costs.VIEWS or node.op in costs.COPIES
            cost = costs.Cost("copy") if free else None
        if failure is not None:
            raise LaminaError(f"{self._at(label, proto)}: {failure}")
        inputs = [v for v in given if v is not None]
        fixed = all(v.constant for v in inputs) or (node.op in ("Shape", "Size") and node.value(0).shape is not None)
        if cost is not None and not cost.loops and fixed and node.op not in costs.RANDOM:
            self.ledger.record.free += 1
            return folded(node)
        results = self.ledger.operator(node, cost, sized)
        if any(v.data is not None and v.tensor is not None for v in inputs) and (data := fold(node)) is not None:
            for value, known_data in zip(results, data, strict=False):
                value.data = known_data
        return results

    def _infer(self, node: Node, known: bool) -> str | None:
        """Set the node's output shapes; what the standard finds wrong with it is returned."""
        node.outputs = [(None, "float32")] * len(node.proto.output)
        rule = microsoft.SHAPES.get(node.op)
        try:
            if node.domain == "" and defs.has(node.op, node.opset, ""):
                if all(v is None or v.shape is not None for v in node.inputs):
                    node.outputs = shapes.infer(node, self.opsets, self.ir_version)
            elif known and rule is not None:
                node.outputs = rule(node)[: len(node.proto.output)]
        except UnknownShape:
            pass
        except (InferenceError, ValidationError) as error:
            text = first_line(error)
            return text[text.rfind("): ") + 3 :] if "): " in text else text
        return None

    def _constant(self, proto: NodeProto, found: dict[str, Any], label: str) -> Value:
        """The value of a Constant node."""
        name = proto.output[0]
        if isinstance(found.get("value"), TensorProto):
            return self.ledger.constant(found["value"], label, name)
        for kind in ("value_float", "value_floats"):
            if kind in found:
                data = np.array(found[kind], np.float32)
                return self.ledger.constant(numpy_helper.from_array(data), label, name)
        for kind in ("value_int", "value_ints"):
            if kind in found:
                data = np.array(found[kind], np.int64)
                return Value(data.shape, "int64", data, True)
        if "sparse_value" in found:
            sparse = found["sparse_value"]
            return Value(tuple(sparse.dims), dtype_of(sparse.values.data_type), None, True)
        return Value(np.shape(found.get("value_strings", "")), "STRING", None, True)
