"""One file for each kind of network that can grow: where its layers lie, and how a changed configuration is said."""

from collections.abc import Callable

from torch import nn

from lamina.errors import InputError
from lamina.scale.families.huggingface import GPT2, Llama
from lamina.scale.families.timm import VisionTransformer
from lamina.scale.families.zoo import DenseNet, ResNet, Transformer, ViT, WideResNet
from lamina.scale.structure import Family
from lamina.zoo import densenet, resnet, transformer, vit, wide_resnet


def _is(kind: type) -> Callable[[nn.Module], bool]:
    return lambda module: isinstance(module, kind)


def _named(package: str, *names: str) -> Callable[[nn.Module], bool]:
    """Whether a module is of a class of another library, which is not imported for the question."""
    return lambda module: any(base.__module__.startswith(package) and base.__name__ in names for base in type(module).__mro__)


KNOWN: tuple[tuple[Callable[[nn.Module], bool], Callable[[nn.Module], Family]], ...] = (
    (_is(resnet.Net), ResNet),
    (_is(wide_resnet.CifarNet), WideResNet),
    (_is(densenet.Net), DenseNet),
    (_is(transformer.Net), Transformer),
    (_is(vit.Net), ViT),
    (_named("timm.models.vision_transformer", "VisionTransformer"), VisionTransformer),
    (_named("transformers.models.gpt2", "GPT2Model", "GPT2LMHeadModel"), GPT2),
    (_named("transformers.models.llama", "LlamaModel", "LlamaForCausalLM"), Llama),
)


def check_bare(module: nn.Module) -> None:
    """Refuse a module that only wraps the network."""
    if _named("torch.", "FSDPModule")(module):
        raise InputError("fully_shard has spread the weights over processes: grow the network first, and shard the grown one")
    if _named("torch.", "DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")(module):
        raise InputError(f"{type(module).__name__} wraps the network: give its .module, and wrap the grown network again")
    if hasattr(module, "_orig_mod"):
        raise InputError("a compiled module is not grown: give its ._orig_mod, and compile the grown network again")


def describe(module: nn.Module) -> Family:
    """The family of a module. Raises `InputError` for wrapped modules and for those that no family describes."""
    check_bare(module)
    for fits, family in KNOWN:
        if fits(module):
            return family(module)
    known = "the zoo's ResNet, Wide ResNet, ResNeXt, DenseNet, Transformer and ViT, timm's VisionTransformer, GPT-2 and Llama"
    raise InputError(f"{type(module).__name__} has no description for growing: there are {known}")
