"""Write tests/conventions.json: what the counting tools print for some networks, with their versions.

Run in an environment that has the extra `peers` and Lamina: `python -m tests.write_conventions`. Each tool is called as
its documentation shows, on a fresh network in evaluation mode.
"""

import contextlib
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import lamina
from tests.peer_networks import NETWORKS

FILE = Path(__file__).parent / "conventions.json"
ZOO = ("resnet50", "resnet50_v1_5", "vgg16", "alexnet", "googlenet", "densenet121", "inception_v3", "vit_b_16", "lenet5_dense")
TORCHVISION = ("resnet50", "vit_b_16", "swin_t", "densenet121", "mobilenet_v2", "vgg16", "convnext_tiny", "efficientnet_b0")


def fvcore(net: torch.nn.Module, x: torch.Tensor) -> dict[str, int]:
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count

    flops, activations = FlopCountAnalysis(net, x), ActivationCountAnalysis(net, x)
    for analysis in (flops, activations):
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return {"macs": int(flops.total()), "parameters": parameter_count(net)[""], "activations": int(activations.total())}


def ptflops(net: torch.nn.Module, x: torch.Tensor) -> dict[str, int]:
    from ptflops import get_model_complexity_info

    macs, parameters = get_model_complexity_info(net, tuple(x.shape[1:]), as_strings=False, print_per_layer_stat=False)
    return {"macs": int(macs), "parameters": parameters}


def thop(net: torch.nn.Module, x: torch.Tensor) -> dict[str, int]:
    import thop

    macs, parameters = thop.profile(net, (x,), verbose=False)
    return {"macs": int(macs), "parameters": int(parameters)}


def torchinfo(net: torch.nn.Module, x: torch.Tensor) -> dict[str, int]:
    from torchinfo import summary

    result = summary(net, input_data=x, verbose=0)
    return {"macs": result.total_mult_adds, "parameters": result.total_params}


def calflops(net: torch.nn.Module, x: torch.Tensor) -> dict[str, int]:
    from calflops import calculate_flops

    flops, macs, parameters = calculate_flops(net, tuple(x.shape), output_as_string=False, print_results=False)
    return {"macs": int(macs), "flops": int(flops), "parameters": int(parameters)}


TOOLS = (fvcore, ptflops, thop, torchinfo, calflops)


def measure(make: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {"input": shape}
    for tool in TOOLS:
        if tool is ptflops and shape[0] != 1:
            continue  # it counts one sample
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row[tool.__name__] = tool(make().eval(), torch.zeros(shape))
    return row


def main() -> None:
    import torchvision

    torch.manual_seed(0)
    versions = {name: version(name) for name in ("torch", "torchvision", *(tool.__name__ for tool in TOOLS))}
    rows = {f"own: {name}": measure(make, shape) for name, (make, shape) in NETWORKS.items()}
    for name in ZOO:
        rows[f"zoo: {name}"] = measure(lambda name=name: lamina.build(name), (1, *lamina.spec(name).input))
    for name in TORCHVISION:
        rows[f"torchvision: {name}"] = measure(getattr(torchvision.models, name), (1, 3, 224, 224))
    lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    FILE.write_text(f'{{"versions": {json.dumps(versions)},\n "networks": {{\n' + ",\n".join(lines) + "\n }}\n")


if __name__ == "__main__":
    main()
