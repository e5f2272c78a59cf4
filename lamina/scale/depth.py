"""Deeper networks that compute the same function. So far one operator: zero insertion into a ResNet.

Lu et al. and Chen, Goodfellow, Shlens ("Net2Net", arXiv 1511.05641) start new layers as the identity. In a ResNet a block
whose last batch norm has zero scale and shift adds nothing to its shortcut, and ReLU of what ReLU gave is itself: exact.
"""

from dataclasses import replace

import torch
from torch import nn

from lamina.errors import InputError
from lamina.zoo import resnet


def grow(module: nn.Module, depths: tuple[int, ...]) -> resnet.Net:
    """A ResNet of `depths` blocks a stage that gives the same outputs as `module`, to rounding; `module` is left as it was.

    New blocks stand at the end of their stage, initialised as the paper has it but for the last norm, which is zero: they
    learn as soon as it moves. Raises `InputError` for other networks, plain ones (no shortcut, no identity), and depths
    that are smaller than the module's.
    """
    if not isinstance(module, resnet.Net) or module.config.shortcut == "none":
        raise InputError(f"zero insertion needs residual blocks: {type(module).__name__} is no ResNet with shortcuts")
    old = module.config.depths
    if len(depths) != len(old) or any(new < was for new, was in zip(depths, old, strict=True)):
        raise InputError(f"a ResNet of {old} blocks cannot grow to {tuple(depths)}: give at least as many in each stage")
    weight = module.fc.weight
    with torch.device("meta"):
        net = resnet.Net(replace(module.config, depths=tuple(depths)))
    net.to_empty(device=weight.device).to(weight.dtype)
    with torch.no_grad():
        net.init_weights()
        for stage, (was, new) in enumerate(zip(old, depths, strict=True), 1):
            blocks = list(net.get_submodule(f"layer{stage}").children())
            for block in blocks[was:new]:
                assert isinstance(block, resnet.Block)
                nn.init.zeros_(block.last_norm.weight)
                nn.init.zeros_(block.last_norm.bias)
        net.load_state_dict({**net.state_dict(), **module.state_dict()})
    return net.train(module.training)
