"""What each counting tool counts of a layer: the rules that `conventions` makes its views of.

Every rule was read in the tool's source and is held to the tool's own output (tests/cost/conventions.json).
"""

import math
from collections.abc import Iterable

from lamina.workload import Layer, Loops, Workload

CONVOLUTIONS = {f"Conv{suffix}{n}d" for n in (1, 2, 3) for suffix in ("", "Transpose")}
BATCH_NORMS = {f"BatchNorm{n}d" for n in (1, 2, 3)}
INSTANCE_NORMS = {f"InstanceNorm{n}d" for n in (1, 2, 3)}
AVERAGE_POOLS = {f"AvgPool{n}d" for n in (1, 2, 3)}
MAX_POOLS = {f"MaxPool{n}d" for n in (1, 2, 3)}
ADAPTIVE_AVERAGE = {f"AdaptiveAvgPool{n}d" for n in (1, 2, 3)}
ADAPTIVE_MAX = {f"AdaptiveMaxPool{n}d" for n in (1, 2, 3)}
POOLS = AVERAGE_POOLS | MAX_POOLS | ADAPTIVE_AVERAGE | ADAPTIVE_MAX
RECURRENT = {"RNN", "GRU", "LSTM"}
MULTI_HEAD = "MultiheadAttention"
FUSED = "scaled_dot_product_attention"

Counts = dict[str, int]  # what is counted, by kind: product, bias, norm, activation, pool, softmax, resize


# ---- what the rules ask of a layer --------------------------------------------------------------------------------


def _in(layer: Layer) -> int:
    return layer.inputs[0].numel if layer.inputs else 0


def _out(layer: Layer) -> int:
    return layer.outputs[0].numel if layer.outputs else 0


def _affine(layer: Layer) -> bool:
    return bool(layer.weights)


def _biased(layer: Layer) -> bool:
    return any(w.part == "bias" for w in layer.weights)


def _is_product(layer: Layer) -> bool:
    """A matrix product that was called as one: not inside a fused attention, not of an LSTM."""
    return layer.kind in ("linear", "matmul") and layer.op != FUSED and layer.module_type not in (MULTI_HEAD, *RECURRENT)


def _projection_nests(layer: Layer) -> list[Loops]:
    """Products with a weight; attention's two are of activations."""
    names = {name for w in layer.weights for name in w.names}
    return [nest for nest in layer.loops if names & set(nest.operands)]


def _projections(layer: Layer) -> int:
    return sum(nest.macs for nest in _projection_nests(layer))


def _seen_products(layer: Layer) -> int:
    """MACs for a tool that does not look into fused attention and recurrent layers."""
    if layer.kind == "conv" or _is_product(layer):
        return layer.macs
    return _projections(layer) if layer.module_type == MULTI_HEAD else 0


# ---- the tools ----------------------------------------------------------------------------------------------------


def _resizes(layer: Layer) -> bool:
    """Whether it is one of the operators that `torch.nn.functional.interpolate` calls."""
    return "upsample_" in layer.op


def exact(workload: Workload, layer: Layer) -> Counts:
    return {"product": layer.macs}


def fvcore(workload: Workload, layer: Layer) -> Counts:
    counts = {"product": _seen_products(layer)}
    measured = 5 if _affine(layer) else 4
    if layer.op == "batch_norm":
        counts["norm"] = _in(layer) * (measured if workload.mode == "train" else 2 if _affine(layer) else 1)
    elif layer.op in ("layer_norm", "group_norm", "instance_norm"):
        counts["norm"] = _in(layer) * measured
    elif layer.op == "adaptive_avg_pool2d":
        counts["pool"] = _in(layer)
    elif _resizes(layer):
        counts["resize"] = _out(layer) * (1 if layer.kind == "copy" else 4)  # nearest neighbour copies
    return counts


def thop(workload: Workload, layer: Layer) -> Counts:
    kind, n = layer.module_type, _in(layer)
    if kind in CONVOLUTIONS and layer.kind == "conv":
        nest = layer.loops[0]
        return {"product": _out(layer) * layer.inputs[0].shape[1] // nest.G * math.prod(nest.filter)}
    if kind == "Linear" and layer.kind == "linear":
        return {"product": layer.macs}
    if kind in BATCH_NORMS | INSTANCE_NORMS | {"LayerNorm", "SyncBatchNorm"} and layer.kind == "norm":
        return {"norm": n * (4 if _affine(layer) else 2)}
    if kind in AVERAGE_POOLS:
        return {"pool": _out(layer)}
    if kind in ADAPTIVE_AVERAGE:
        return {"pool": n + _out(layer)}
    if kind == "Softmax" and layer.kind == "softmax":
        return {"softmax": 2 * n + layer.ops["compare"]}  # 3 n - rows
    if kind == "Upsample":
        return {"resize": _out(layer) * (1 if layer.kind == "copy" else 11)}  # nearest neighbour, bilinear
    return {"activation": n} if kind == "PReLU" else {}


THOP_TYPES = (
    CONVOLUTIONS | BATCH_NORMS | INSTANCE_NORMS | POOLS | RECURRENT
    | {"Linear", "LayerNorm", "SyncBatchNorm", "Softmax", "PReLU", "ReLU", "ReLU6", "LeakyReLU", "Dropout", "Upsample"}
    | {"RNNCell", "GRUCell", "LSTMCell", "ZeroPad2d", "PixelShuffle", "UpsamplingBilinear2d", "UpsamplingNearest2d"}
)  # fmt: skip


def ptflops(workload: Workload, layer: Layer) -> Counts:
    kind, op, n = layer.module_type, layer.op, _in(layer)
    if kind == MULTI_HEAD and layer.loops:
        return _ptflops_attention(layer)
    if (kind in CONVOLUTIONS and layer.kind == "conv") or (kind == "Linear" and layer.kind == "linear"):
        return {"product": layer.macs, "bias": _out(layer) if _biased(layer) else 0}
    if layer.kind == "matmul" and op in ("matmul", "mm", "bmm", "addmm", "baddbmm"):
        return {"product": layer.macs}
    if op == "local_response_norm":
        return {"norm": _patched_response_norm(layer)}
    if layer.kind == "norm":
        doubled = kind in BATCH_NORMS | INSTANCE_NORMS | {"GroupNorm"} and _affine(layer)
        return {"norm": n * (2 if doubled else 1)} if doubled or kind in PTFLOPS_NORMS else {}
    # A module's hook and the patched function that it calls both count.
    if layer.kind == "activation" or op in PTFLOPS_FUNCTIONS:
        hooked, patched = kind in PTFLOPS_ACTIVATIONS, op in PTFLOPS_FUNCTIONS
        return {"activation": n * (hooked + patched)}
    if layer.kind == "pool":
        return {"pool": n * (2 if kind in POOLS else 1)}
    if layer.kind == "softmax":
        return {"softmax": n}
    return {"resize": _out(layer) * (2 if kind == "Upsample" else 1)} if _resizes(layer) else {}


PTFLOPS_NORMS = BATCH_NORMS | INSTANCE_NORMS | {"GroupNorm", "LayerNorm"}
PTFLOPS_ACTIVATIONS = {"ReLU", "PReLU", "ELU", "LeakyReLU", "ReLU6", "GELU"}
PTFLOPS_FUNCTIONS = {"relu", "prelu", "elu", "relu6", "gelu", "silu"}


def _patched_response_norm(layer: Layer) -> int:
    """What patched functions see of F.local_response_norm: three products and sums, and the pooling of padded channels."""
    n, channels = _in(layer), layer.inputs[0].shape[1]
    return 3 * n + n // channels * (channels + layer.attributes["size"] - 1)


def _ptflops_attention(layer: Layer) -> Counts:
    """The hook of nn.MultiheadAttention: scaling of the query, projections with biases, scores, softmax, mixing."""
    projections = _projection_nests(layer)
    counts = {"product": layer.macs, "bias": sum(n.macs // n.C for n in projections) if _biased(layer) else 0}
    scores = next((nest for nest in layer.loops if nest not in projections), None)
    if scores is not None:
        counts |= {"softmax": scores.N * scores.G * scores.M, "activation": scores.N * scores.G * scores.C}
    return counts


def calflops_macs(workload: Workload, layer: Layer) -> Counts:
    macs = 0 if layer.op in ("einsum", "baddbmm") else _seen_products(layer)
    if layer.loops and layer.loops[0].transposed:
        nest = layer.loops[0]
        macs = macs // nest.M * (nest.M // nest.G)  # divided by the groups twice
    return {"product": macs}


def _calflops_bias(layer: Layer) -> int:
    """One addition an output element, where a transposed convolution's output is taken for a convolution's, of one group."""
    nest = layer.loops[0]
    if not nest.transposed:
        return _out(layer)
    windows = zip(nest.output, nest.filter, nest.stride, nest.padding, nest.dilation, strict=True)
    sizes = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in windows if isinstance(p, int)]
    return nest.N * nest.M * math.prod(sizes)


def calflops_flops(workload: Workload, layer: Layer) -> int:
    n, products = _in(layer), 2 * calflops_macs(workload, layer)["product"]
    if layer.kind == "conv":
        return products + (_calflops_bias(layer) if _biased(layer) else 0)
    if layer.op == "einsum":
        return 2 * layer.macs
    if layer.op == "batch_norm" and workload.mode == "eval":
        return n * (2 if _affine(layer) else 1)
    if layer.op in ("batch_norm", "layer_norm", "group_norm", "instance_norm"):
        return n * (5 if _affine(layer) else 4)
    if layer.op == "local_response_norm":
        return _patched_response_norm(layer)
    counted = layer.op in PTFLOPS_FUNCTIONS | {"leaky_relu"} or layer.kind in ("pool", "softmax") or _resizes(layer)
    return n if counted else products


def torchinfo(workload: Workload) -> Counts:
    """Of every call of a module without children: for a convolution each weight and bias element once for every place of
    the output, for any other layer once for every sample, whatever the size of its output. `Conv` is looked for in the
    class's name; names that only contain "weight" or "bias" (an LSTM's) count once for each sample and step."""
    owned: dict[str, list[tuple[str, int]]] = {}  # of each module: (its parameter's own name, elements)
    for weight in workload.weights:
        for name in weight.names:
            module, _, own = name.rpartition(".")
            owned.setdefault(module, []).append((own, weight.numel))
    paths = {*owned, *(layer.module for layer in workload.layers)} - {""}
    parents = {".".join(path.split(".")[:i]) for path in paths for i in range(path.count(".") + 1)}
    calls = {(layer.module, layer.call): layer for layer in workload.layers if layer.outputs and layer.kind != "view"}
    counts: Counts = {}
    for (module, _), layer in calls.items():
        if module in parents or module not in owned:
            continue
        shape = layer.outputs[0].shape
        for own, elements in owned[module]:
            if own in ("weight", "bias"):
                places = shape[0] * math.prod(shape[2:]) if "Conv" in layer.module_type else shape[0]
            else:
                places = math.prod(shape[:2]) if "weight" in own or "bias" in own else 0
            key = "product" if layer.loops else "norm" if layer.kind == "norm" else layer.kind
            counts[key] = counts.get(key, 0) + places * elements
    return counts


def running_statistics(workload: Workload) -> int:
    """Elements of the running means and variances of the batch norms that the call used."""
    modules = {x.module: x for x in workload.layers if x.op == "batch_norm" and x.inputs}
    return sum(2 * x.inputs[0].shape[1] for x in modules.values())


def all_parameters(workload: Workload) -> int:
    return workload.total().parameters


def trainable(workload: Workload) -> int:
    return sum(w.numel for w in workload.weights if w.trainable)


def named_parameters(workload: Workload) -> int:
    """A tied weight in each of its modules."""
    return sum(w.numel * len(w.names) for w in workload.weights)


def thop_parameters(workload: Workload) -> int:
    """Those of the modules that were called and that thop has a rule for; no parameter held by a module of another
    class (a class token, the projections of nn.MultiheadAttention); a tied weight in each of its modules."""
    called = {layer.module for layer in workload.layers if layer.module_type in THOP_TYPES}
    names = [(name.rpartition(".")[0], w.numel) for w in workload.weights for name in w.names]
    return sum(elements for module, elements in names if module in called)


def traced_activations(workload: Workload) -> int:
    """fvcore's ActivationCountAnalysis: outputs of convolutions, linear layers and unfused products."""
    seen = sum(_out(layer) for layer in workload.layers if layer.kind == "conv" or _is_product(layer))
    heads = [layer for layer in workload.layers if layer.module_type == MULTI_HEAD]
    return seen + sum(nest.macs // nest.C for layer in heads for nest in _projection_nests(layer))


def biases(layers: Iterable[Layer]) -> int:
    """One addition for every output element of a convolution or linear layer with a bias."""
    return sum(_out(layer) for layer in layers if layer.kind in ("conv", "linear") and _biased(layer))


def attention_macs(workload: Workload) -> int:
    """MACs of products of two activations (scores and mixing of attention)."""
    products = [layer for layer in workload.layers if layer.kind in ("linear", "matmul") and layer.module_type not in RECURRENT]
    return sum(layer.macs - _projections(layer) for layer in products)
