"""If, Loop and Scan: which of their graphs run, how often, and what is known of their results.

Of an If whose condition is not a constant the branch with more MACs is counted; the layer's attributes name it. A loop's body
is counted once, its products and other arithmetic as often as it runs. Where the sizes that it carries change from step to
step, or a condition that it computes ends it, the steps are followed one by one as far as constants decide them; what they do
not decide is listed as unknown.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import GraphProto, NodeProto

from lamina.onnx.file import nodes
from lamina.onnx.record import Ledger, Record
from lamina.onnx.values import MissingInput, Value, attributes
from lamina.operators import Shape, ShapeError

Scope = ChainMap[str, Value]
# The most nodes of loop bodies that one reading visits a further time.
MOST_REPEATED = 4_000


class Reader(Protocol):
    """Who reads the graphs."""

    ledger: Ledger
    opsets: dict[str, int]
    repeated: int  # nodes of loop bodies that were visited a further time

    def walk(self, graph: GraphProto, scope: Scope, where: str) -> list[Value]: ...


Control = Callable[[Reader, NodeProto, str, list[Value | None], Scope], list[Value]]


def _apart(
    reader: Reader, graph: GraphProto, scope: Scope, values: Mapping[str, Value], where: str
) -> tuple[list[Value], Record]:
    """A subgraph's outputs, and its record apart from this one."""
    ledger = reader.ledger
    outer, ledger.record = ledger.record, Record()
    try:
        outputs = reader.walk(graph, scope.new_child(dict(values)), where)
        return outputs, ledger.record
    finally:
        ledger.record = outer


def _moving(ledger: Ledger, value: Value | None) -> Value:
    """A value that a loop carries: nothing is known of it from step to step but its shape."""
    if value is None:
        raise MissingInput("lacks a value that its body takes")
    if value.shape is None:
        return Value(None, value.dtype)
    if value.tensor is not None:
        return Value(value.shape, value.dtype, tensor=value.tensor)
    return ledger.activation(value.shape, value.dtype)


# ---- If -------------------------------------------------------------------------------------------------------------


def branch(reader: Reader, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
    ledger, found = reader.ledger, attributes(proto)
    branches = [k for k in ("then_branch", "else_branch") if isinstance(found.get(k), GraphProto)]
    if len(branches) < 2 or not given or given[0] is None:
        raise MissingInput("lacks its condition or a branch")
    condition = given[0].data
    if condition is not None and condition.size == 1:
        branches = [branches[0 if condition.all() else 1]]
    results = {b: _apart(reader, found[b], scope, {}, f"{label}/{b.removesuffix('_branch')}/") for b in branches}
    chosen = max(results, key=lambda b: sum(step.macs for step in results[b][1].steps))
    values, record = results[chosen]
    ledger.record.add(record)
    if len(branches) == 1:
        ledger.record.free += 1
        return values
    made = [ledger.activation(v.shape, v.dtype, v) if v.shape is not None else Value(None, v.dtype) for v in values]
    said = {"branch": chosen.removesuffix("_branch"), "why": "the costlier"}
    ledger.assumptions[f"{label}: an If whose condition is not a constant takes its costlier branch ({said['branch']})"] = None
    ledger.control(proto, label, said, "view", [given[0], *values], made)
    return made


# ---- Loop -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Turn:
    """One step of a loop: whether it goes on, what it carries on and what it adds to the stacked outputs."""

    go: Value
    carried: list[Value]
    stacked: list[Value]
    record: Record


@dataclass(slots=True)
class Body:
    """A loop's body, to be read as often as its shapes differ."""

    reader: Reader
    graph: GraphProto
    scope: Scope
    where: str
    size: int  # nodes, those of subgraphs too

    def turn(self, number: int | None, carried: Sequence[Value], again: bool = True) -> Turn:
        """Read it once; the number of the step is a constant, if it is given."""
        step = Value((), "int64") if number is None else Value((), "int64", np.array(number), True)
        go = Value((), "bool", np.array(True), True)  # it runs while that is true
        values = {v.name: value for v, value in zip(self.graph.input, (step, go, *carried), strict=True)}
        self.reader.repeated += self.size if again else 0
        outputs, record = _apart(self.reader, self.graph, self.scope, values, self.where)
        if len(outputs) < 1 + len(carried):
            raise MissingInput("lacks an output of its body")
        return Turn(outputs[0], outputs[1 : 1 + len(carried)], outputs[1 + len(carried) :], record)

    def may_repeat(self) -> bool:
        return self.reader.repeated + self.size <= MOST_REPEATED


def loop(reader: Reader, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
    ledger, graph = reader.ledger, attributes(proto).get("body")
    if not isinstance(graph, GraphProto) or len(graph.input) < 2 or len(given) < len(graph.input):
        raise MissingInput("lacks its body or a value that the body takes")
    body = Body(reader, graph, scope, f"{label}/", sum(1 for _ in nodes(graph)))
    start = given[2 : len(graph.input)]
    carried = [_moving(ledger, v) for v in start]
    turn = body.turn(None, carried, again=False)
    trips = _trips(given, turn.go)
    steady = _is_steady(carried, [turn])
    turns = _followed(body, given, carried, start) if trips is None or (trips != 0 and not steady) else None
    trips, why = trips if turns is None else len(turns), ""
    if turns and not _is_steady(carried, [turn, *turns]):
        for each in turns:
            ledger.record.add(each.record)
        turn = turns[-1]
    else:
        if trips != 0 and not steady:
            turn, why = _lost(body, carried, turn), "sizes change from step to step"
        elif trips is None:
            why = "its number of steps depends on values: one counted"
        if trips != 0:
            ledger.record.add(turn.record, 1 if trips is None else trips)
    final = [a if trips == 0 and a is not None else b for a, b in zip(start, turn.carried, strict=True)]
    results = [_moving(ledger, v) for v in final]
    for i, v in enumerate(turn.stacked):
        same = all(each.stacked[i].shape == v.shape for each in turns or ())
        shape = (trips, *v.shape) if trips is not None and v.shape is not None and same and not why else None
        results.append(Value(None, v.dtype) if shape is None else ledger.activation(shape, v.dtype))
    said = {} if trips is None else {"trips": trips}
    ledger.control(proto, label, said, "copy", [*given, *turn.carried, *turn.stacked], results, why)
    return results


def _is_steady(carried: Sequence[Value], turns: Sequence[Turn]) -> bool:
    return all(a.shape == b.shape for turn in turns for a, b in zip(carried, turn.carried, strict=True))


def _limit(given: Sequence[Value | None]) -> tuple[bool, int | None]:
    """Whether it is known how often a loop may run at most, and that; None for without end."""
    limit = given[0]
    if limit is None:
        return True, None
    return limit.data is not None, None if limit.data is None else max(int(limit.data.reshape(-1)[0]), 0)


def _trips(given: Sequence[Value | None], after: Value) -> int | None:
    """How often a loop runs, if its inputs and the condition `after` a step are constants."""
    (known, most), condition = _limit(given), given[1]
    if condition is not None and condition.data is not None and not condition.data.any():
        return 0
    if (condition is not None and condition.data is None) or after.data is None or not known:
        return None
    if after.data.all():
        return most
    return 1 if most is None else min(most, 1)


def _followed(
    body: Body, given: Sequence[Value | None], carried: list[Value], start: Sequence[Value | None]
) -> list[Turn] | None:
    """The steps one by one, with what is constant in each; None if something else decides when the loop ends, or it takes
    too many."""
    known, most = _limit(given)
    condition = given[1]
    go = np.array(True) if condition is None else condition.data
    values = [v if v is not None and v.constant else moving for v, moving in zip(start, carried, strict=True)]
    turns: list[Turn] = []
    while known and go is not None and (most is None or len(turns) < most) and go.any():
        if not body.may_repeat():
            return None
        turn = body.turn(len(turns), values)
        turns.append(turn)
        values, go = turn.carried, turn.go.data
    return turns if known and go is not None else None


def _lost(body: Body, carried: Sequence[Value], turn: Turn) -> Turn:
    """A step in which the carried values that do not keep their shape have none."""
    values = list(carried)
    while body.may_repeat():
        kept = [a.shape is None or a.shape == b.shape for a, b in zip(values, turn.carried, strict=True)]
        if all(kept):
            break
        values = [v if same else Value(None, v.dtype) for v, same in zip(values, kept, strict=True)]
        turn = body.turn(None, values)
    turn.carried = [Value(None, v.dtype) if a.shape != v.shape else v for a, v in zip(carried, turn.carried, strict=True)]
    return turn


# ---- Scan -----------------------------------------------------------------------------------------------------------


def scan(reader: Reader, proto: NodeProto, label: str, given: list[Value | None], scope: Scope) -> list[Value]:
    ledger, found = reader.ledger, attributes(proto)
    body, old = found.get("body"), reader.opsets.get("", 1) < 9
    values = [v for v in (given[1:] if old else given) if v is not None]  # opset 8: lengths first, and a batch axis
    count = found.get("num_scan_inputs", 0)
    if not isinstance(body, GraphProto) or len(values) != len(body.input) or not 0 < count <= len(values):
        raise MissingInput("lacks its body or a value that the body takes")
    states = len(values) - count
    axes = found.get("scan_input_axes", (0,) * count)
    entered, batch, length = _entered(ledger, values, states, axes, old)
    names = {v.name: value for v, value in zip(body.input, entered, strict=True)}
    outputs, record = _apart(reader, body, scope, names, f"{label}/")
    ledger.record.add(record, 1 if length is None else length * batch)
    results = []
    out_axes = found.get("scan_output_axes", (0,) * len(outputs))
    for i, value in enumerate(outputs):
        shape = value.shape
        if shape is not None and i >= states:
            place = out_axes[i - states] % (len(shape) + 1)
            shape = None if length is None else (*shape[:place], length, *shape[place:])
        lead = (batch,) if old else ()
        results.append(Value(None, value.dtype) if shape is None else ledger.activation((*lead, *shape), value.dtype))
    said = {} if length is None else {"steps": length}
    why = "its length depends on values: one step counted" if length is None else ""
    ledger.control(proto, label, said, "copy", [*values, *outputs], results, why)
    return results


def _entered(
    ledger: Ledger, values: Sequence[Value], states: int, axes: Sequence[int], old: bool
) -> tuple[list[Value], int, int | None]:
    """What the body sees: the states as they are, of what is scanned one element; the batch (1, but for opset 8) and how many
    steps there are."""
    entered: list[Value] = []
    batch, steps = 1, set[int]()
    for i, value in enumerate(values):
        shape: Shape | None = value.shape
        if shape is not None and old:
            batch, shape = shape[0] if i >= states else batch, shape[1:]
        if shape is not None and i >= states:
            if not shape:
                raise ShapeError(f"cannot scan an input of the shape {value.shape}")
            place = axes[i - states] % len(shape)
            steps.add(shape[place])
            shape = (*shape[:place], *shape[place + 1 :])
        entered.append(Value(None, value.dtype) if shape is None else ledger.activation(shape, value.dtype))
    if len(steps) > 1:
        raise ShapeError(f"scans inputs of different lengths: {' and '.join(map(str, sorted(steps)))}")
    return entered, batch, steps.pop() if steps else None


CONTROL: dict[str, Control] = {"If": branch, "Loop": loop, "Scan": scan}
