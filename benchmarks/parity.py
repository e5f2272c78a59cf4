"""The same random weights through other libraries' networks and Lamina's: how far apart the answers are.

make parity, or .parity/bin/python benchmarks/parity.py [--only SUBSTRING]

The weights pass through `lamina.weights.fitting.fit`, as a file of that library would. Each difference is the largest one over
the largest magnitude: of the logits in evaluation; of the logits (auxiliary heads' too) and of the running statistics
behind them in training mode, without dropout; and for one network a family of the parameters' gradients.
"""

import argparse
import math
import re
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from lamina.infer import generate
from lamina.weights import fitting, reading
from lamina.zoo import registry

BOUND = 1e-4
BATCH = 2
WORDS, END, PAD = 100, 0, 99  # Marian's decoder starts from the padding token

OLD_VIT = (  # transformers before version 5, and the files that version 5 writes
    (r"\.layers\.(\d+)\.attention\.q_proj\.", r".encoder.layer.\1.attention.attention.query."),
    (r"\.layers\.(\d+)\.attention\.k_proj\.", r".encoder.layer.\1.attention.attention.key."),
    (r"\.layers\.(\d+)\.attention\.v_proj\.", r".encoder.layer.\1.attention.attention.value."),
    (r"\.layers\.(\d+)\.attention\.o_proj\.", r".encoder.layer.\1.attention.output.dense."),
    (r"\.layers\.(\d+)\.mlp\.fc1\.", r".encoder.layer.\1.intermediate.dense."),
    (r"\.layers\.(\d+)\.mlp\.fc2\.", r".encoder.layer.\1.output.dense."),
    (r"\.layers\.(\d+)\.layernorm_", r".encoder.layer.\1.layernorm_"),
)


@dataclass(frozen=True)
class Pair:
    """A network of another library and the same one of Lamina's. `size` is the images' side, a small one where the network
    is free of it."""

    source: str
    theirs: str
    ours: str
    size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)  # of theirs
    changes: Mapping[str, Any] = field(default_factory=dict)  # of our Config
    gradient: bool = False
    note: str = ""
    keys: tuple[tuple[str, str], ...] = ()  # renames theirs first
    npz: bool = False  # both read a file as the authors of ViT write theirs


def hf_vit(ours: str, note: str = "", keys: tuple[tuple[str, str], ...] = ()) -> Pair:
    c = registry.spec(ours).config
    options = {"patch_size": c.patch, "num_hidden_layers": c.depth, "hidden_size": c.width, "intermediate_size": c.mlp}
    options |= {"num_attention_heads": c.n_heads, "num_labels": 1000}
    return Pair("transformers", "ViTForImageClassification", ours, 224, options, note=note, keys=keys)


def hf_resnet(ours: str, gradient: bool = False) -> Pair:
    c = registry.spec(ours).config
    options = {"layer_type": "bottleneck" if c.bottleneck else "basic", "depths": list(c.depths), "num_labels": 1000}
    options |= {"hidden_sizes": [c.expansion * width for width in c.widths], "downsample_in_bottleneck": c.stride_in == "1x1"}
    return Pair("transformers", "ResNetForImageClassification", ours, 64, options, gradient=gradient)


# A small one: with one matrix for both embeddings and the output, as all public models, or with three.
MARIAN = {"vocab_size": WORDS, "d_model": 64, "encoder_layers": 3, "decoder_layers": 2, "pad_token_id": PAD}
MARIAN |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
MARIAN |= {"activation_function": "swish", "scale_embedding": True, "eos_token_id": END, "decoder_start_token_id": PAD}
OUR_MARIAN = {"vocabulary": WORDS, "d_model": 64, "encoder_layers": 3, "decoder_layers": 2, "n_heads": 4, "d_ff": 128}
OUR_MARIAN |= {"attention_bias": True, "output_bias": True, "activation": "silu", "positions": "halves"}
UNTIED = MARIAN | {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}
OUR_UNTIED = OUR_MARIAN | {"tie": False}

AUX = {"aux_logits": True, "init_weights": False, "transform_input": False}
PAIRS = [
    Pair("torchvision", "alexnet", "alexnet_owt", 224, gradient=True),
    *(Pair("torchvision", f"vgg{n}", f"vgg{n}", 224, gradient=n == 11) for n in (11, 13, 16, 19)),
    *(Pair("torchvision", f"vgg{n}_bn", f"vgg{n}_bn", 224, gradient=n == 11) for n in (11, 13, 16, 19)),
    Pair("torchvision", "googlenet", "googlenet_bn", 224, AUX, {"aux": True}, gradient=True),
    Pair("torchvision", "inception_v3", "inception_v3", 299, AUX, {"aux": True}, gradient=True),
    *(Pair("torchvision", f"resnet{n}", f"resnet{n}", gradient=n == 18) for n in (18, 34)),
    *(Pair("torchvision", f"resnet{n}", f"resnet{n}_v1_5", gradient=n == 50) for n in (50, 101, 152)),
    Pair("torchvision", "resnext50_32x4d", "resnext50_32x4d", gradient=True),
    *(Pair("torchvision", f"resnext101_{n}", f"resnext101_{n}") for n in ("32x8d", "64x4d")),
    *(Pair("torchvision", f"wide_resnet{n}_2", f"wide_resnet{n}_2", gradient=n == 50) for n in (50, 101)),
    *(Pair("torchvision", f"densenet{n}", f"densenet{n}", gradient=n == 121) for n in (121, 161, 169, 201)),
    *(Pair("torchvision", f"vit_{n}", f"vit_{n}", 224, gradient=n == "b_32") for n in ("b_16", "b_32", "l_16", "l_32", "h_14")),
    *(Pair("timm", f"vgg{n}{bn}", f"vgg{n}{bn}", 224) for n in (11, 13, 16, 19) for bn in ("", "_bn")),
    *(Pair("timm", f"resnet{n}", f"resnet{n}") for n in (18, 34)),
    *(Pair("timm", f"resnet{n}", f"resnet{n}_v1_5") for n in (50, 101, 152)),
    *(Pair("timm", f"resnext{n}", f"resnext{n}") for n in ("50_32x4d", "101_32x4d", "101_32x8d", "101_64x4d")),
    *(Pair("timm", f"wide_resnet{n}_2", f"wide_resnet{n}_2") for n in (50, 101)),
    *(Pair("timm", f"densenet{n}", f"densenet{n}") for n in (121, 161, 169, 201)),
    Pair("timm", "inception_v3", "inception_v3", 107),
    Pair("timm", "inception_v4", "inception_v4", 107, gradient=True),
    Pair("timm", "vit_tiny_patch16_224", "vit_ti_16", 224),
    Pair("timm", "vit_small_patch16_224", "vit_s_16", 224),
    Pair("timm", "vit_small_patch32_224", "vit_s_32", 224),
    Pair("timm", "vit_tiny_patch16_224", "vit_ti_16", 224, note=", from .npz", npz=True),
    Pair("timm", "vit_base_patch8_224", "vit_b_8", 224, {"depth": 4}, {"depth": 4}, note=", 4 blocks"),
    Pair("timm", "vit_base_patch16_224", "vit_b_16", 224),
    Pair("timm", "vit_base_patch32_224", "vit_b_32", 224),
    Pair("timm", "vit_large_patch14_224", "vit_l_14", 224, {"depth": 4}, {"depth": 4}, note=", 4 blocks"),
    Pair("timm", "vit_large_patch16_224", "vit_l_16", 224, {"depth": 4}, {"depth": 4}, note=", 4 blocks"),
    *(hf_resnet(name, name == "resnet50") for name in ("resnet18", "resnet34", "resnet50", "resnet50_v1_5", "resnet101_v1_5")),
    hf_vit("vit_b_32"),
    hf_vit("vit_b_32", ", old keys", OLD_VIT),
    Pair("transformers", "MarianMTModel", "transformer_base", 0, MARIAN, OUR_MARIAN, gradient=True),
    Pair("transformers", "MarianMTModel", "transformer_base", 0, UNTIED, OUR_UNTIED, True, ", untied"),
]


def build(pair: Pair) -> tuple[Any, dict[str, Tensor]]:
    """Their network, with random weights, and the tensors of the file that it has them from, if any."""
    if pair.theirs == "MarianMTModel":
        net = transformers.MarianMTModel(transformers.MarianConfig(**pair.options, dropout=0.0))
    elif pair.source == "transformers":
        config = getattr(transformers, pair.theirs.replace("ForImageClassification", "Config"))
        net = getattr(transformers, pair.theirs)(config(**pair.options))
    else:
        create = timm.create_model if pair.source == "timm" else torchvision.models.get_model
        with torch.device("meta"):  # without an initialisation, which takes longer than all the rest
            net = create(pair.theirs, **pair.options)
        net.to_empty(device="cpu")
        for m in batch_norms(net):
            m.reset_running_stats()
    for name, p in net.named_parameters():
        if p.dim() in (2, 4) and p.requires_grad:  # He's rule, so that no signal fades
            p.data.normal_(std=math.sqrt(2 / p[0].numel()))
        elif p.dim() == 1 and name.endswith("weight"):  # norms: no two alike
            p.data.uniform_(0.8, 1.2)
        elif p.requires_grad:  # biases, class tokens, positions
            p.data.normal_(std=0.1)
    if pair.npz:
        with TemporaryDirectory() as folder:
            file = write_npz(pair, folder)
            net.load_pretrained(file)
            return net, reading.read_state(Path(file))
    if isinstance(net, transformers.MarianMTModel):
        net.final_logits_bias.requires_grad_().data.normal_(std=0.3)  # a parameter of ours
        for layer in net.model.decoder.layers:  # a next token that depends on the last one more than on the source:
            layer.encoder_attn.out_proj.weight.data.mul_(0.1)  # else generated sequences are one token repeated
            layer.fc2.weight.data.mul_(4)
    return net, {}


def write_npz(pair: Pair, folder: str) -> str:
    """A file of random weights with the names and axes of google-research/vision_transformer's."""
    c = registry.spec(pair.ours).config
    heads, each = c.n_heads, c.width // c.n_heads
    shapes: dict[str, tuple[int, ...]] = {"cls": (1, 1, c.width), "head/kernel": (c.width, 1000), "head/bias": (1000,)}
    shapes |= {"embedding/kernel": (c.patch, c.patch, 3, c.width), "embedding/bias": (c.width,)}
    shapes["Transformer/posembed_input/pos_embedding"] = (1, 1 + c.grid**2, c.width)
    norms = ["Transformer/encoder_norm"]
    for i in range(c.depth):
        block = f"Transformer/encoderblock_{i}"
        norms += [f"{block}/LayerNorm_0", f"{block}/LayerNorm_2"]
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (c.width, heads, each), f"{attention}/{part}/bias": (heads, each)}
        shapes |= {f"{attention}/out/kernel": (heads, each, c.width), f"{attention}/out/bias": (c.width,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (c.width, c.mlp), f"{block}/MlpBlock_3/Dense_0/bias": (c.mlp,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (c.mlp, c.width), f"{block}/MlpBlock_3/Dense_1/bias": (c.width,)}
    arrays = {name: (0.1 * torch.randn(shape)).numpy() for name, shape in shapes.items()}
    arrays |= {f"{norm}/{part}": torch.empty(c.width).uniform_(0.5, 1).numpy() for norm in norms for part in ("scale", "bias")}
    np.savez(f"{folder}/weights.npz", **arrays)
    return f"{folder}/weights.npz"


def batch_norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def questions(pair: Pair) -> tuple[tuple, tuple]:
    """The arguments of their network and of ours."""
    if pair.size:
        x = torch.randn(BATCH, 3, pair.size, pair.size)
        return (x,), (x,)
    source, mask = sentences()
    # No padding among the target: transformers keeps a padding token's embedding out of the gradient.
    target = torch.randint(1, PAD, (len(source), 9))
    return (source, (~mask).long(), target), (source, target, mask)


def sentences() -> tuple[Tensor, Tensor]:
    """Random source tokens (B, S) of several lengths, and the mask that is True on padding."""
    return generate.pad([[*torch.randint(1, PAD, (n,)).tolist(), END] for n in range(3, 15)], PAD)


def fit(pair: Pair, state: Mapping[str, Tensor]) -> Any:
    """Our network with the tensors of a state dict of theirs."""
    for new, old in pair.keys:
        state = {re.sub(new, old, key): value for key, value in state.items()}
    net = registry.assemble(pair.ours, **pair.changes)
    fitting.fit(pair.ours, net, state, pair.source)
    return net


def settle(net: nn.Module, arguments: tuple) -> None:
    """Set the running statistics to those of one batch."""
    norms = batch_norms(net)
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 1.0
    if norms:
        net.train()(*arguments)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def logits(answer: Any) -> tuple[Tensor, ...]:
    """Of their answers and ours: the last head's, then the auxiliary ones' from the input up."""
    if type(answer) is tuple:
        return answer
    if isinstance(answer, tuple):  # torchvision names the fields, and has the auxiliary heads from the output down
        return (answer[0], *answer[:0:-1])
    return (answer if isinstance(answer, Tensor) else answer.logits,)


def difference(theirs: Iterable[Tensor], ours: Iterable[Tensor]) -> float:
    """The largest difference over the largest magnitude, of the tensor where it is worst; not a number if any is not."""
    return torch.stack([(a - b).abs().max() / a.abs().max() for a, b in zip(theirs, ours, strict=True)]).max().item()


def measure(pair: Pair) -> tuple[float, float, float | None, Any, Any]:
    """The differences in evaluation, in training and of the gradients; their network and ours."""
    torch.manual_seed(1)
    theirs, file = build(pair)
    for m in theirs.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    asked, asked_ours = questions(pair)
    with torch.no_grad():
        settle(theirs, asked)
    ours = fit(pair, file or {key: value.clone() for key, value in theirs.state_dict().items()})
    for m in ours.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    with torch.no_grad():
        expected, given = logits(theirs.eval()(*asked)), logits(ours.eval()(*asked_ours))
    (first, second, *_), largest = expected[0], expected[0].abs().max()
    assert (first - second).abs().max() > 100 * BOUND * largest, "these outputs hardly depend on the input, and prove nothing"
    evaluation = difference(expected, given)
    with torch.set_grad_enabled(pair.gradient):
        expected, given = logits(theirs.train()(*asked)), logits(ours.train()(*asked_ours))
    after = fit(pair, theirs.state_dict()).state_dict()
    statistics = {key: value for key, value in ours.named_buffers() if "running" in key}
    training = difference([*expected, *(after[key] for key in statistics)], [*given, *statistics.values()])
    if not pair.gradient:
        return evaluation, training, None, theirs, ours
    losses = [torch.randn_like(x) for x in expected]
    torch.autograd.backward(expected, losses)
    torch.autograd.backward(given, losses)
    state = theirs.state_dict(keep_vars=True)
    slopes = fit(pair, {key: value.detach() if value.grad is None else value.grad for key, value in state.items()}).state_dict()
    parameters = dict(ours.named_parameters())
    slopes = torch.cat([slopes[key].flatten() for key in parameters])
    gradient = difference([slopes], [torch.cat([p.grad.flatten() for p in parameters.values()])])
    return evaluation, training, gradient, theirs, ours


def sequences(theirs: Any, ours: Any, beams: int, length_penalty: float = 1.0) -> tuple[float, float]:
    """The share of generated sequences that differ, for each sentence the best of greedy search or all beams; and of beams the
    largest difference of a sequence's score."""
    theirs.eval(), ours.eval()
    source, mask = sentences()
    options: dict[str, Any] = {"min_length": 0, "max_length": 24, "banned": [PAD], "length_penalty": length_penalty}
    expected, given, scores = [], [], [0.0]
    for readiness in (1.0, 2.0, 3.0, 4.0):  # to end: some sequences do so early, some are cut
        for bias in (theirs.final_logits_bias.data, ours.output_bias.data):
            bias[..., END] = readiness
            bias[..., PAD] = 4.0  # likely, were it not among the "bad words", as it is in all public models
        found = theirs.generate(
            source,
            attention_mask=(~mask).long(),
            num_beams=beams,
            num_return_sequences=beams,
            early_stopping=beams > 1,
            max_new_tokens=24,
            forced_eos_token_id=None,
            bad_words_ids=[[PAD]],
            renormalize_logits=True,
            length_penalty=length_penalty,
            return_dict_in_generate=True,
            output_scores=True,
        )
        expected += [row[1 : row.index(END) if END in row else len(row)] for row in found.sequences.tolist()]
        if beams == 1:
            rows = [[h] for h in generate.greedy(ours, source, PAD, END, mask, **options)]
        else:
            rows = generate.beam_search(ours, source, PAD, END, mask, beams=beams, hypotheses=beams, **options)
        given += [list(h.ids) for row in rows for h in row]
        if beams > 1:
            theirs_first = found.sequences_scores.tolist()
            scores += [abs(a - h.score) for a, h in zip(theirs_first, (h for row in rows for h in row), strict=True)]
    assert len({len(ids) for ids in given}) > 4, "these sequences are too much alike, and prove little"
    return sum(a != b for a, b in zip(expected, given, strict=True)) / len(given), max(scores)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the lines that have this in a name")
    only = parser.parse_args().only
    pairs = [pair for pair in PAIRS if only in f"{pair.source} {pair.theirs}{pair.note} {pair.ours}"]
    if not pairs:
        parser.error(f"no line has {only!r} in a name")
    transformers.logging.set_verbosity_error()
    libraries = (torch, torchvision, timm, transformers)
    print(", ".join(f"{library.__name__} {library.__version__}" for library in libraries), f"- bound {BOUND:g}")
    line = "{:<13}{:<36}{:<17}{:>9}{:>9}{:>9}  {}".format
    print(line("source", "theirs", "ours", "eval", "train", "gradient", ""))
    failed, start = 0, time.perf_counter()
    for pair in pairs:
        evaluation, training, gradient, theirs, ours = measure(pair)
        rows = [(pair.theirs + pair.note, evaluation, training, gradient)]
        if pair.theirs == "MarianMTModel":
            for beams, exponent in ((1, 1.0), (4, 1.0), (4, 0.6)):
                apart, scores = sequences(theirs, ours, beams, exponent)
                searched = f"{beams} beams ** {exponent}" if beams > 1 else "greedy"
                rows.append((f"  {searched}: share apart", apart, None, None))
                rows += [(f"  {searched}: scores", scores, None, None)] if beams > 1 else []
        for name, *values in rows:
            passed = all(value is None or value < BOUND for value in values)
            failed += not passed
            shown = ["" if value is None else f"{value:.1e}" for value in values]
            print(line(pair.source, name, pair.ours, *shown, "PASS" if passed else "FAIL"), flush=True)
        del theirs, ours
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{failed} over the bound; {time.perf_counter() - start:.0f} s, {peak:.1f} GiB at most")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
