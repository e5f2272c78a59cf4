"""Recurrent networks: RNN, GRU and LSTM, whole sequences and single cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lamina import operators
from lamina.operators import GATES, ShapeError
from lamina.tracing import private
from lamina.tracing.emitter import Emitter
from lamina.tracing.rules.table import RULES, rule
from lamina.workload import Loops, replace


def _from_given_state(nests: Sequence[Loops], state: int | str) -> list[Loops]:
    """The nests, the first step from the state that is given apart: that needs a gradient only if the state does."""
    place = next(i for i, nest in enumerate(nests) if nest.operands[0] == "state" and i)
    first = nests[place]
    rest = [replace(first, times=first.times - 1)] if first.times > 1 else []
    return [*nests[:place], replace(first, times=1, operands=(state, *first.operands[1:])), *rest, *nests[place + 1 :]]


class Size(NamedTuple):
    """Of a recurrent network: `runs` are (steps, sequences); bytes of a number; whether the sequences are packed."""

    cell: str
    runs: list[tuple[int, int]]
    layers: int
    directions: int
    hidden: int
    projected: int
    itemsize: int
    packed: bool


def _kept(t: Emitter, s: Size, input: Tensor, out: Tensor, dropout: float, moved: bool) -> list[Tensor | int]:
    """What is kept beside the first states. What cuDNN reserves is not documented: there it is the gates' values and cells."""
    places, number = sum(steps * batch for steps, batch in s.runs), s.layers * s.directions
    width = (s.projected or s.hidden) * s.itemsize
    kept: list[Tensor | int] = [input.numel() * s.itemsize if moved else input]
    for _ in range(s.layers - 1):
        kept.append(places * width * s.directions)  # what the layer above takes
        if dropout:
            kept.append(operators.dropout_kept(places * width * s.directions // s.itemsize, s.itemsize, t.device))
    if t.device == "cuda":
        values = GATES[s.cell] + (1 if s.cell == "lstm" else 0)
        return [*kept, out, places * s.hidden * values * number * s.itemsize]
    if not _is_onednn(t, s, input):
        each = operators.recurrent_kept(s.cell, s.runs, s.hidden, s.projected) * s.itemsize
        copies = [kept[0]] * (s.directions - 1) if moved else []  # each direction makes its own
        return [*kept, *copies, *(each,) * number]
    steps, batch = s.runs[0]
    for layer in range(s.layers):
        features = input.shape[-1] if layer == 0 else s.hidden * s.directions
        work = operators.onednn_lstm_kept(steps, batch, features, s.hidden, s.itemsize)
        last = 2 * batch * width  # its last state and cell
        for _ in range(s.directions):
            kept += [work, last]
        if s.directions == 2 or (dropout and layer < s.layers - 1):  # else its result is what the layer above takes
            kept += [places * width] * s.directions
    return kept if s.directions == 2 else [*kept, out]


def _is_onednn(t: Emitter, s: Size, input: Tensor) -> bool:
    plain = s.cell == "lstm" and not s.packed and not s.projected
    return t.device == "cpu" and plain and input.dtype in (torch.float32, torch.bfloat16)


def _workspace(t: Emitter, s: Size, input: Tensor, copied: bool) -> int:
    """Beside the results; of cuDNN, whose own is not known, what oneDNN's kind of kernel takes."""
    units = sum(steps * batch for steps, batch in s.runs) * s.hidden * s.itemsize
    state, output = s.runs[0][1] * s.hidden * s.itemsize, units * (s.projected or s.hidden) // s.hidden
    if t.device == "cuda" or _is_onednn(t, s, input):
        moved = input.numel() * s.itemsize if copied else 0
        return operators.onednn_lstm_workspace(output, state, s.layers, s.directions, moved)
    return operators.recurrent_workspace(s.cell, units, output, state, s.layers, s.directions, copied)


class Call(NamedTuple):
    """The arguments of torch's recurrent networks; `leading` are the input's sizes before its features, `runs` as in `Size`."""

    states: tuple[Tensor, ...]
    weights: Sequence[Tensor]
    biased: bool
    layers: int
    dropout: float  # 0 where not in training
    both: bool
    batch_first: bool
    packed: bool
    leading: tuple[int, ...]
    runs: list[tuple[int, int]]


def _call(gates: int, input: Tensor, args: Sequence[Any]) -> Call | None:
    """Of torch's two forms, (input, state, weights, biased, layers, dropout, training, bidirectional, batch_first), and for a
    packed sequence (data, batch_sizes, state, weights, ..., bidirectional); None where the sizes have no values."""
    packed = isinstance(args[0], Tensor) and isinstance(args[1 if gates == 4 else 2], (tuple, list)) and len(args) == 8
    packed = packed and isinstance(args[2], Sequence)
    if packed:
        sizes, state, weights, biased, layers, dropout, training, both = args
        if sizes.is_meta:
            return None
        batch_first = False
        runs = sorted(((n, size) for size, n in Counter(sizes.tolist()).items()), key=lambda run: -run[1])
        leading = tuple(input.shape[:1])
    else:
        state, weights, biased, layers, dropout, training, both, batch_first = args
        if input.dim() != 3:
            raise ShapeError(f"takes (steps, sequences, features), got {tuple(input.shape)}")
        steps, batch, _ = input.transpose(0, 1).shape if batch_first else input.shape
        leading, runs = (steps, batch), [(steps, batch)]
    states = tuple(state) if gates == 4 else (state,)
    rate = float(dropout) if training else 0.0
    return Call(states, weights, bool(biased), layers, rate, bool(both), batch_first, packed, leading, runs)


def _nests(t: Emitter, gates: int, input: Tensor, call: Call, hidden: int, projected: int) -> list[Loops]:
    """Of each layer in each direction."""
    width, directions = projected or hidden, 2 if call.both else 1
    each = len(call.weights) // (call.layers * directions)
    nests: list[Loops] = []
    for number in range(call.layers * directions):
        own = call.weights[number * each : (number + 1) * each]
        features = input.shape[-1] if number < directions else width * directions
        if own[0].shape[-1] != features or own[0].shape[0] != gates * hidden:
            raise ShapeError(f"takes {own[0].shape[-1]} features, got {features} (input {tuple(input.shape)})")
        place = (t.operand(input) if number < directions else "state", t.operand(own[0]), t.operand(own[1]))
        place += (t.operand(own[-1]),) if projected else ()
        runs = call.runs[::-1] if call.both and number % 2 else call.runs
        given = operators.recurrent(runs, gates, features, hidden, projected, place)
        nests += _from_given_state(given, t.operand(call.states[0]))
    return nests


def _sequence(name: str) -> Callable[..., Any]:
    gates = GATES[name]

    def recurrent(t: Emitter, input: Tensor, *args: Any) -> Any:
        call = _call(gates, input, args)
        if call is None:
            return NotImplemented
        states, directions = call.states, 2 if call.both else 1
        hidden = states[-1].shape[-1]
        projected = states[0].shape[-1] if gates == 4 and states[0].shape[-1] != hidden else 0
        nests = _nests(t, gates, input, call, hidden, projected)
        out = t.new((*call.leading, (projected or hidden) * directions), input.dtype)
        if call.batch_first:
            out = out.transpose(0, 1)
        last = [t.new(tuple(s.shape), s.dtype) for s in states]
        total = sum(steps * batch for steps, batch in call.runs)
        ops = operators.recurrent_ops(name, total * hidden * call.layers * directions, call.biased)
        moved = call.batch_first and min(call.runs[0]) > 1  # steps come first: a copy of the input
        size = Size(name, call.runs, call.layers, directions, hidden, projected, input.element_size(), call.packed)
        kept = (*_kept(t, size, input, out, call.dropout, moved), *states)
        attributes = {"layers": call.layers, "bidirectional": call.both, "packed": call.packed}
        given, outputs, workspace = (input, *states, *call.weights), (out, *last), _workspace(t, size, input, moved)
        t.emit("linear", name, given, outputs, tuple(nests), ops, kept, attributes, workspace)
        return outputs

    return recurrent


def _cell(name: str) -> Callable[..., Any]:
    gates = GATES[name]

    def cell(t: Emitter, input: Tensor, state: Any, w_ih: Tensor, w_hh: Tensor, b_ih=None, b_hh=None) -> Any:
        states = tuple(state) if gates == 4 else (state,)
        rows, hidden = (input.shape[0] if input.dim() > 1 else 1), w_hh.shape[1]
        if input.shape[-1] != w_ih.shape[1] or states[0].shape[-1] != hidden:
            raise ShapeError(f"takes {w_ih.shape[1]} features and a state of {hidden}, got {tuple(input.shape)}")
        place = (t.operand(input), t.operand(w_ih), t.operand(w_hh))
        first, second = operators.recurrent([(1, rows)], gates, input.shape[-1], hidden, 0, place)
        nests = (first, Loops(N=rows, M=second.M, C=hidden, operands=(t.operand(states[0]), place[2], "gates")))
        outputs = tuple([t.new(tuple(s.shape), s.dtype) for s in states])
        ops = operators.recurrent_ops(name, rows * hidden, b_ih is not None)
        kept: list[Tensor | int] = [input, *states, operators.cell_kept(name, rows * hidden, t.device) * input.element_size()]
        if gates == 1 or (t.device == "cuda" and gates == 4):  # an activation's result; the cell
            kept.append(outputs[-1])
        workspace = operators.cell_workspace(name, rows * hidden * input.element_size())
        given = (input, *states, w_ih, w_hh, b_ih, b_hh)
        t.emit("linear", f"{name}_cell", given, outputs, nests, ops, kept, workspace=workspace)
        return outputs if gates == 4 else outputs[0]

    return cell


for _name in GATES:
    RULES[getattr(torch, _name)] = _sequence(_name)
    RULES[getattr(torch, f"{_name}_cell")] = _cell(_name)


@rule(private.pack_padded_sequence)
def pack(t: Emitter, input: Tensor, lengths: Tensor, batch_first: bool) -> Any:
    """The values that are no padding, and how many sequences are alive in each step."""
    if not input.is_meta or lengths.is_meta:
        return NotImplemented
    alive = lengths.tolist()
    sizes = [sum(length > step for length in alive) for step in range(max(alive, default=0))]
    out, batch_sizes = t.new((sum(alive), *input.shape[2:]), input.dtype), torch.tensor(sizes)
    t.emit("copy", "pack_padded_sequence", (input, lengths), (out, batch_sizes))
    return out, batch_sizes


@rule(private.pad_packed_sequence)
def unpack(t: Emitter, data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value, total_length: int) -> Any:
    if not data.is_meta or batch_sizes.is_meta:
        return NotImplemented
    sizes = batch_sizes.tolist()
    steps, batch = max(len(sizes), total_length), sizes[0]
    shape = (batch, steps) if batch_first else (steps, batch)
    lengths = torch.tensor([sum(size > i for size in sizes) for i in range(batch)])
    out = t.new((*shape, *data.shape[1:]), data.dtype)
    t.emit("copy", "pad_packed_sequence", (data, batch_sizes), (out, lengths))
    return out, lengths
