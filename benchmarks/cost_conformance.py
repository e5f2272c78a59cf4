"""Who counts right: Lamina and six other counters on cases that are known to go wrong, against arithmetic.

make peers, or .parity/bin/python benchmarks/cost_conformance.py [--only SUBSTRING] [--cases] [--record]

Every case is a small network, given alike to all, and the exact number, worked out from its sizes: multiply-accumulates
of convolutions, linear layers and matrix products. A counter that speaks of FLOPs is halved. A row's cell says how many of
its cases were right, or the number that was given instead; cases of parameters are none of a counter's that gives none.

The cases, and who chose them, are in conformance_cases.py. `--record` writes benchmarks/records/cost_conformance.json.
"""

import argparse
import contextlib
import copy
import inspect
import io
import multiprocessing
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import calflops
import fvcore.nn
import ptflops
import record
import tables
import thop
import torch
import torchinfo
import torchvision
import transformers
from conformance_cases import APART, BEHIND, CASES, SOURCES, Around, Call, Case, D, S, picture
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lamina.errors import LaminaError
from lamina.tracing.tracer import trace

Counts = tuple[int, int | None]  # MACs, parameters where the counter gives them


# ---- the counters -----------------------------------------------------------------------------------------------


def lamina(module: nn.Module, *inputs: Tensor) -> Counts:
    try:
        work = trace(module, *inputs)
    except LaminaError:
        if "values" not in inspect.signature(trace).parameters:
            raise
        work = trace(module, *inputs, values=True)  # type: ignore[call-arg]  # what shapes do not decide, on real values
    if work.coverage.unknown:
        raise NotImplementedError(f"listed as unknown: {work.coverage.unknown[0].op}")
    return work.macs, sum(weight.numel for weight in work.weights)


def flop_counter(module: nn.Module, *inputs: Tensor) -> Counts:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2, None


def by_fvcore(module: nn.Module, *inputs: Tensor) -> Counts:
    analysis = fvcore.nn.FlopCountAnalysis(module, inputs)
    macs = int(analysis.total())  # which it calls FLOPs
    if any("lamina_conformance" in op for op in analysis.unsupported_ops()):
        raise NotImplementedError("listed as unknown")
    return macs, fvcore.nn.parameter_count(module)[""]


def by_ptflops(module: nn.Module, *inputs: Tensor) -> Counts:
    named = dict(zip(argument_names(module), inputs, strict=False))
    result = ptflops.get_model_complexity_info(
        module, (1,), as_strings=False, print_per_layer_stat=False, input_constructor=lambda _: named
    )
    if result[0] is None:
        raise ValueError("it gives no count")
    return int(result[0]), int(result[1])


def by_thop(module: nn.Module, *inputs: Tensor) -> Counts:
    macs, parameters = thop.profile(module, inputs=inputs, verbose=False)
    return int(macs), int(parameters)


def by_torchinfo(module: nn.Module, *inputs: Tensor) -> Counts:
    result = torchinfo.summary(module, input_data=list(inputs), verbose=0)
    return int(result.total_mult_adds), int(result.total_params)


def by_calflops(module: nn.Module, *inputs: Tensor) -> Counts:
    _, macs, parameters = calflops.calculate_flops(
        module, args=list(inputs), print_results=False, print_detailed=False, output_as_string=False
    )
    return int(macs), int(parameters)


TOOLS: dict[str, Callable[..., Counts]] = {
    "Lamina": lamina,
    "FlopCounterMode": flop_counter,
    "fvcore": by_fvcore,
    "ptflops": by_ptflops,
    "thop": by_thop,
    "torchinfo": by_torchinfo,
    "calflops": by_calflops,
}


def argument_names(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


# ---- cases that are no number -----------------------------------------------------------------------------------


def snapshot(module: nn.Module) -> tuple[Any, ...]:
    hooks = [[len(v) for k, v in m.__dict__.items() if "hooks" in k and hasattr(v, "__len__")] for m in module.modules()]
    attributes = [sorted(m.__dict__) for m in module.modules()]
    types = [(type(m), getattr(m.forward, "__func__", m.forward)) for m in module.modules()]
    return list(module.state_dict()), hooks, attributes, types, [m.training for m in module.modules()]


def leaves_no_trace(tool: Callable[..., Counts]) -> str:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU()).train()
    before, state = snapshot(module), {k: v.clone() for k, v in module.state_dict().items()}
    tool(module, picture(8))
    if snapshot(module) != before:
        return "leaves attributes or hooks"
    same = all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    return "right" if same else "changes running statistics"


def counts_again(tool: Callable[..., Counts]) -> str:
    module = Around("plain").eval()
    first, second = tool(module, picture(16))[0], tool(module, picture(16))[0]
    return "right" if first == second else f"{first:,}, then {second:,}"


def counts_in_threads(tool: Callable[..., Counts]) -> str:
    """Two threads count one network again and again, at once."""
    module, inputs = torchvision.models.squeezenet1_1().eval(), picture(64)
    alone = tool(copy.deepcopy(module), inputs)[0]
    found: list[int | str] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        for _ in range(3):
            try:
                found.append(tool(module, inputs)[0])
            except Exception as error:
                found.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [x for x in found if x != alone]
    return "right" if not wrong else f"{len(wrong)} of {len(found)} wrong"


def counts_backward(tool: Callable[..., Counts]) -> str:
    """Of transposed convolutions, grouped and depthwise: a product for the weight's gradient and one for the input's, which
    only the first layer does without."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 12, 3, 2, groups=2), nn.ConvTranspose2d(12, 12, 4, 2, 1, groups=12)
    )
    right, x = 100 * 24 + 2 * 100 * 8 * 12 // 2 * 9 + 2 * 21 * 21 * 12 * 16, picture(10)
    if tool is lamina:
        macs = trace(net, x).total().backward_macs
    elif tool is flop_counter:
        y = net(x)
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        macs = counter.get_total_flops() // 2
    else:
        return "counts none"
    return "right" if macs == right else f"{macs:,} for {right:,}"


def lists_the_unknown(tool: Callable[..., Counts]) -> str:
    module = Call(torch.ops.lamina_conformance.product, D, D).eval()
    try:
        with torch.no_grad():
            macs, _ = tool(module, torch.randn(S, D))
    except NotImplementedError:
        return "right"
    return f"{macs:,}, silently"


def reads_onnx(tool: Callable[..., Counts]) -> str:
    """A Loop of eight steps around a product, an If around one, a 1-D MaxPool and DynamicQuantizeLinear."""
    if tool is not lamina:
        return "reads no ONNX"
    import onnx
    from onnx import TensorProto as P
    from onnx import helper as h

    from lamina.onnx.graph import read

    def value(name: str, shape: Iterable[int | str], kind: int = P.FLOAT) -> Any:
        return h.make_tensor_value_info(name, kind, list(shape))

    def constant(name: str, array: Tensor) -> Any:
        return onnx.numpy_helper.from_array(array.numpy(), name)

    square = constant("w", torch.zeros(4, 4))
    loop = h.make_graph(
        [h.make_node("MatMul", ["s", "w"], ["t"]), h.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", [], P.INT64), value("c", [], P.BOOL), value("s", [3, 4])], [value("d", [], P.BOOL), value("t", [3, 4])],
    )  # fmt: skip
    branches = {
        f"{side}_branch": h.make_graph([h.make_node("MatMul", ["x", "w"], [side])], side, [], [value(side, [3, 4])])
        for side in ("then", "else")
    }
    graphs = {
        8 * 48: ([h.make_node("Loop", ["n", "", "x"], ["y"], body=loop)], [value("x", [3, 4])], [value("y", [3, 4])]),
        48: ([h.make_node("If", ["b"], ["y"], **branches)], [value("x", [3, 4]), value("b", [], P.BOOL)], [value("y", [3, 4])]),
        0: (
            [
                h.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2], strides=[2]),
                h.make_node("DynamicQuantizeLinear", ["p"], ["q", "scale", "zero"]),
            ],
            [value("x", [1, 3, 8])],
            [value("q", [1, 3, 4], P.UINT8)],
        ),
    }
    for right, (nodes, inputs, outputs) in graphs.items():
        graph = h.make_graph(nodes, "g", inputs, outputs, [square, constant("n", torch.tensor(8))])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
            work = read(path, {})
        if work.total().macs != right or work.coverage.unknown:
            return f"{work.total().macs:,} for {right:,}"
    return "right"


CHECKS: dict[str, Callable[[Callable[..., Counts]], str]] = {
    "ConvTranspose2d's backward pass": counts_backward,
    "the network is left as it was": leaves_no_trace,
    "counting twice": counts_again,
    "counting in two threads": counts_in_threads,
    "an unknown operator is named": lists_the_unknown,
    "ONNX: Loop, If, 1-D MaxPool, DynamicQuantizeLinear": reads_onnx,
}


# ---- the table --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def alone(function: Callable[[], str]) -> str:
    """The result of `function` in a process of its own: what a counter leaves behind spoils no other case."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        try:
            with quiet():
                result = function()
        except BaseException as error:
            result = f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        sender.send(result)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    sender.close()  # this end of it: where the process dies, as fvcore's does at times in two threads, no answer can come
    try:
        result = receiver.recv() if receiver.poll(300) else "fails: no answer in five minutes"
    except EOFError:
        result = "fails: its process died"
    process.kill()
    process.join()
    return result


def attempt(tool: Callable[..., Counts], case: Case) -> str:
    """ "right", the number given instead, or "gives none"."""
    torch.manual_seed(0)
    module, *inputs = case.make()
    counts = tool(module.eval(), *inputs)
    given = counts[1] if case.parameters else counts[0]
    return "gives none" if given is None else "right" if given == case.right else f"{given:,}"


def cell(results: list[str]) -> str:
    """A row's results in one tool's column, of the cases that the tool can enter."""
    results = [result for result in results if result != "gives none"] or results
    count = results.count("right")
    if count == len(results):
        return "**right**"
    return results[0].partition(":")[0] if len(results) == 1 else f"{count} of {len(results)}"


Rows = dict[str, dict[str, list[str]]]


def measure(only: str, shown: bool) -> Rows:
    """Each row's results by tool, of the rows that have `only` in their name; `shown`: every case is printed."""
    rows: Rows = {}
    for case in CASES:
        if only in case.row:
            for name, tool in TOOLS.items():
                result = alone(partial(attempt, tool, case))
                rows.setdefault(case.row, {}).setdefault(name, []).append(result)
                if shown:
                    print(f"{case.row} | {case.name} | {case.right:,} | {name}: {result}", flush=True)
    for row, function in CHECKS.items():
        if only in row:
            rows[row] = {name: [alone(partial(function, tool))] for name, tool in TOOLS.items()}
            if shown:
                print(*(f"{row} | {name}: {result}" for name, (result,) in rows[row].items()), sep="\n", flush=True)
    return rows


def table(rows: Rows) -> list[dict[str, Any]]:
    """The rows as they are shown and recorded."""
    exact = {case.row: f"{case.right:,}" for case in CASES if not case.name}
    return [
        {
            "row": row, "exact": exact.get(row, ""), "cells": [cell(cells[name]) for name in TOOLS],
            "results": [cells[name] for name in TOOLS], "apart": row in APART,
            "source": SOURCES.get(row, []), "behind": BEHIND.get(row, ""),
        }
        for row, cells in rows.items()
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the rows that have this in them")
    parser.add_argument("--cases", action="store_true", help="every case and every number, not only the table")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/cost_conformance.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    found = table(measure(options.only, options.cases))
    print(tables.conformance(list(TOOLS), found))
    if options.record:
        made = record.provenance(
            seed=0, packages=("fvcore", "ptflops", "thop", "torchinfo", "calflops", "torchvision", "transformers")
        )
        record.write("cost_conformance", made, tools=list(TOOLS), rows=found)
    wrong = [r["row"] for r in found if r["cells"][0] != "**right**" and not r["behind"]]
    mended = [r["row"] for r in found if r["cells"][0] == "**right**" and r["behind"]]
    for row in (*wrong, *mended):
        print(f"{row}: {'wrong' if row in wrong else 'right by now: take it out of BEHIND'}", file=sys.stderr)
    return 1 if wrong or mended else 0


if __name__ == "__main__":
    sys.exit(main())
