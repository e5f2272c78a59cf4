from typing import Annotated, Literal

import typer

from lamina.cli.output import Json, print_json
from lamina.errors import InputError, LaminaError

DTYPES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def cost(
    model: Annotated[str, typer.Argument(help="A zoo name, FILE.py:callable or package.module:callable.")],
    input: Annotated[str | None, typer.Option("--input", metavar="1x3x224x224", help="The input's shape, batch first.")] = None,
    by: Annotated[Literal["layer", "module", "kind"], typer.Option("--by", help="What a row of the table is.")] = "module",
    depth: Annotated[int, typer.Option("--depth", min=1, help="Parts of the module path, with --by module.")] = 1,
    dtype: Annotated[
        Literal["fp32", "fp16", "bf16", "fp64"], typer.Option("--dtype", help="Of weights and activations.")
    ] = "fp32",
    strict: Annotated[bool, typer.Option("--strict", help="Fail if an operator has no rule.")] = False,
    json: Json = False,
) -> None:
    """Weights, MACs, activations and memory traffic, exactly: one forward pass traced without computing it.

    A MAC is one multiply-accumulate of a convolution, a linear layer or a matrix product (attention's two included); no
    bias, norm, activation or pooling. 1 MAC = 2 FLOPs.
    """
    import torch

    from lamina import units
    from lamina.cost.trace import trace
    from lamina.sources import resolve

    source = resolve(model)
    try:
        shape = units.parse_shape(input) if input else source.input
    except ValueError as error:
        raise InputError(f"--input: {error}") from error
    if shape is None:
        raise InputError(f"{model}: say the input's shape, as in --input 1x3x224x224")
    kind = getattr(torch, DTYPES[dtype])
    try:
        inputs = (torch.empty(shape, dtype=torch.long if source.tokens else kind, device="meta"),) * (2 if source.tokens else 1)
        workload = trace(source.module.to(kind), *inputs, name=model)
    except InputError as error:
        expected = f"; it takes {units.shape(source.input)}" if source.input and shape != source.input else ""
        raise InputError(f"{model} on {units.shape(shape)}: {error}{expected}") from error
    except (ValueError, RuntimeError, TypeError) as error:  # the network's own refusal
        expected = f"; it takes {units.shape(source.input)}" if source.input else " (--debug shows where)"
        raise InputError(f"{model} on {units.shape(shape)}: {str(error).splitlines()[0]}{expected}") from error
    if strict and workload.coverage.unknown:
        first = workload.coverage.unknown[0]
        raise LaminaError(f"{len(workload.coverage.unknown)} operators have no rule; the first is {first.op} in {first.layer}")
    if json:
        print_json(document(workload, model, shape))
        return
    from lamina.report import table

    out = table.console()
    total = workload.total()
    out.print(f"[bold]{model}[/], input {units.shape(shape)}, {dtype}: {total.macs:,} MACs, {total.parameters:,} parameters")
    out.print(table.cost(workload, by, depth))
    peak, unused = workload.peak_activation_bytes, workload.parameters_unused
    out.print(f"{total.flops:,} FLOPs (2 a MAC); peak live activations {units.bytes_(peak)}, in eager order")
    if unused:
        out.print(f"{unused:,} of the parameters are not used by this call")
    for operator in workload.coverage.unknown:
        out.print(f"not counted, no rule: {operator.op} in {operator.layer}, inputs {list(operator.inputs)}")


def document(workload, model: str, shape: tuple[int, ...]) -> dict:
    """The JSON of DESIGN: exact integers; a layer's parameters stand where they are first used."""
    from dataclasses import asdict

    seen: set[int] = set()
    layers = []
    for layer in workload.layers:
        fresh = [w for w in layer.weights if w.storage not in seen]
        seen.update(w.storage for w in fresh)
        layers.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "op": layer.op,
                "inputs": [t.shape for t in layer.inputs],
                "outputs": [t.shape for t in layer.outputs],
                "loops": [asdict(nest) for nest in layer.loops],
                "macs": layer.macs,
                "parameters": sum(w.numel for w in fresh),
                "ops": dict(layer.ops),
                "bytes_read": layer.bytes_read,
                "bytes_written": layer.bytes_written,
            }
        )
    coverage = {"counted": workload.coverage.counted, "free": workload.coverage.free}
    coverage["unknown"] = [asdict(u) for u in workload.coverage.unknown]
    return {"model": model, "input": shape, "totals": workload.summary(), "coverage": coverage, "layers": layers}
