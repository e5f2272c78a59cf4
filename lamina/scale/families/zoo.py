"""The zoo's residual networks, DenseNet, the Transformer and ViT. Each is built from its `Config`."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lamina.scale.structure import ROLES, Attention, Block, Channels, Family, FeedForward, Matrix, Role, Stack, Stream, on_meta
from lamina.zoo import densenet, resnet, transformer, vit, wide_resnet


def norm_tensors(path: str) -> tuple[tuple[str, int], ...]:
    """All that a batch norm keeps for each channel."""
    return tuple((f"{path}.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var"))


class ResNet(Family):
    """ResNet, and in its form ResNeXt and the ImageNet Wide ResNets: post-activation."""

    config: resnet.Config

    def build(self) -> nn.Module:
        return on_meta(lambda: resnet.Net(self.config))

    def stacks(self) -> list[Stack]:
        if self.config.shortcut == "none":
            raise self.refusal("depth", "a plain network has no shortcuts, and no new layer is the identity")
        last = "bn3" if self.config.bottleneck else "bn2"
        built = self.build()
        found = []
        for stage in range(1, len(self.config.depths) + 1):
            blocks = []
            for name, block in built.get_submodule(f"layer{stage}").named_children():
                path = f"layer{stage}.{name}"
                fixed = "" if block.downsample is None else f"{path} changes stride or width"
                blocks.append(Block(path, (f"{path}.{last}.weight", f"{path}.{last}.bias"), fixed))
            found.append(Stack(f"layer{stage}", tuple(blocks), "post-activation"))
        return found

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.clone(replace(self.config, depths=tuple(depths)))

    def hidden(self) -> tuple[tuple[str, str], ...]:
        pair = ("conv1.weight", "conv2.weight")
        return (pair,) if self.config.cardinality == 1 else ()

    def channels(self) -> list[Channels]:
        """The inner channels of each block. The groups of a ResNeXt are copied whole: its cardinality grows."""
        c = self.config
        found = []
        for stage, (depth, width) in enumerate(zip(c.depths, c.widths, strict=True), 1):
            for path in (f"layer{stage}.{i}" for i in range(depth)):
                first = ((f"{path}.conv1.weight", 0), *norm_tensors(f"{path}.bn1"))
                second = ((f"{path}.conv2.weight", 0), *norm_tensors(f"{path}.bn2"))
                conv2, conv3 = Matrix(f"{path}.conv2", bias=False), Matrix(f"{path}.conv3", bias=False)
                if c.cardinality > 1:
                    found.append(Channels(first + second, (conv3,), width // c.cardinality))
                else:
                    found.append(Channels(first, (conv2,)))
                    found += [Channels(second, (conv3,))] if c.bottleneck else []
        return found

    def with_channels(self, factor: int, shrink: bool = False) -> Family:
        c = self.config
        outputs = c.outputs or tuple(c.expansion * width for width in c.widths)
        if shrink and any(width % factor for width in c.widths):
            raise self.refusal("channels", f"its widths {c.widths} are not divisible by {factor}")
        widths = tuple(width // factor if shrink else width * factor for width in c.widths)
        cardinality = c.cardinality
        if cardinality > 1:
            if shrink and cardinality % factor:
                raise self.refusal("channels", f"its cardinality {cardinality} is not divisible by {factor}")
            cardinality = cardinality // factor if shrink else cardinality * factor
        return self.clone(replace(c, widths=widths, outputs=outputs, cardinality=cardinality))


class WideResNet(Family):
    """The CIFAR form: pre-activation."""

    config: wide_resnet.Config

    def build(self) -> nn.Module:
        return on_meta(lambda: wide_resnet.CifarNet(self.config))

    def stacks(self) -> list[Stack]:
        built = self.build()
        found = []
        for stage in range(1, len(self.config.depths) + 1):
            blocks = []
            for name, block in built.get_submodule(f"layer{stage}").named_children():
                path = f"layer{stage}.{name}"
                fixed = "" if block.downsample is None else f"{path} changes stride or width"
                blocks.append(Block(path, (f"{path}.conv2.weight",), fixed))
            found.append(Stack(f"layer{stage}", tuple(blocks), "pre"))
        return found

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.clone(replace(self.config, depths=tuple(depths)))

    def hidden(self) -> tuple[tuple[str, str], ...]:
        return (("conv1.weight", "conv2.weight"),)

    def channels(self) -> list[Channels]:
        return whole_network(self.build(), first="conv1")

    def with_channels(self, factor: int, shrink: bool = False) -> Family:
        c = self.config
        sizes = (c.stem_channels, *c.widths)
        if shrink and any(size % factor for size in sizes):
            raise self.refusal("channels", f"its channels {sizes} are not divisible by {factor}")
        stem, *widths = (size // factor if shrink else size * factor for size in sizes)
        return self.clone(replace(c, stem_channels=stem, widths=tuple(widths)))


class DenseNet(Family):
    config: densenet.Config

    def build(self) -> nn.Module:
        return on_meta(lambda: densenet.Net(self.config))

    def stacks(self) -> list[Stack]:
        raise self.refusal(
            "depth",
            "a dense layer adds maps to a concatenation and no shortcut passes it by, so that no layer is the identity",
            "channels can grow",
        )

    def channels(self) -> list[Channels]:
        return whole_network(self.build(), first="features.conv0")

    def with_channels(self, factor: int, shrink: bool = False) -> Family:
        c = self.config
        sizes = (c.stem_channels, c.growth)
        if shrink and any(size % factor for size in sizes):
            raise self.refusal("channels", f"its stem and growth {sizes} are not divisible by {factor}")
        stem, growth = (size // factor if shrink else size * factor for size in sizes)
        other = self.clone(replace(c, stem_channels=stem, growth=growth))
        old, new = self.build(), other.build()
        for path, layer in old.named_modules():
            if isinstance(layer, nn.Conv2d):
                after = new.get_submodule(path).out_channels
                if after != (layer.out_channels // factor if shrink else layer.out_channels * factor):
                    raise self.refusal(
                        "channels", f"{path} rounds its compression: {layer.out_channels} channels would become {after}"
                    )
        return other


def whole_network(built: nn.Module, first: str) -> list[Channels]:
    """Every channel of the network: each layer's outputs are copied and its inputs shared out, but for the image's channels
    in the convolution `first` and the classes in the last linear layer."""
    writers: list[tuple[str, int]] = []
    readers: list[Matrix] = []
    for path, layer in built.named_modules():
        if isinstance(layer, nn.Conv2d):
            writers.append((f"{path}.weight", 0))
            readers += [Matrix(path, bias=False)] if path != first else []
        elif isinstance(layer, nn.BatchNorm2d):
            writers += norm_tensors(path)
        elif isinstance(layer, nn.Linear):
            readers.append(Matrix(path))
    return [Channels(tuple(writers), tuple(readers))]


class ViT(Family):
    config: vit.Config

    def build(self) -> nn.Module:
        return on_meta(lambda: vit.Net(self.config))

    def stacks(self) -> list[Stack]:
        def last(path: str) -> tuple[str, ...]:
            return tuple(f"{path}.{layer}.{kind}" for layer in ("attention.out", "fc2") for kind in ("weight", "bias"))

        blocks = (Block(f"blocks.{i}", last(f"blocks.{i}")) for i in range(self.config.depth))
        return [Stack("blocks", tuple(blocks), "pre")]

    def feed_forwards(self) -> list[FeedForward]:
        return [
            FeedForward(f"blocks.{i}", (Matrix(f"blocks.{i}.fc1"),), Matrix(f"blocks.{i}.fc2"), self.config.mlp)
            for i in range(self.config.depth)
        ]

    def attentions(self) -> list[Attention]:
        c = self.config
        width = c.head_width or c.width // c.n_heads
        return [
            Attention(
                path,
                ((Matrix(f"{path}.qkv"), ("query", "key", "value")),),
                Matrix(f"{path}.out"),
                c.n_heads,
                c.n_heads,
                width,
            )
            for path in (f"blocks.{i}.attention" for i in range(c.depth))
        ]

    def stream(self) -> Stream:
        writers = [("class_token", 2), ("position_embedding", 2), *Matrix("patch_embed").producers]
        readers = []
        for i in range(self.config.depth):
            block = f"blocks.{i}"
            for norm in ("norm1", "norm2"):
                writers += [(f"{block}.{norm}.weight", 0), (f"{block}.{norm}.bias", 0)]
            writers += Matrix(f"{block}.attention.out").producers + Matrix(f"{block}.fc2").producers
            readers += [Matrix(f"{block}.attention.qkv"), Matrix(f"{block}.fc1")]
        writers += [("norm.weight", 0), ("norm.bias", 0)]
        readers.append(Matrix("pre_logits.0" if self.config.representation is not None else "head"))
        return Stream(self.config.width, tuple(writers), tuple(readers))

    def hidden(self) -> tuple[tuple[str, str], ...]:
        return (("fc1.weight", "fc2.weight"),)

    def patches(self) -> tuple[str, str]:
        return "patch_embed.weight", "position_embedding"

    def with_image(self, img_size: int, patch: int, copies: int) -> Family:
        return self.clone(replace(self.config, img_size=img_size, patch=patch, copies=copies))

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.clone(replace(self.config, depth=depths[0]))

    def with_feed_forward(self, width: int) -> Family:
        return self.clone(replace(self.config, mlp=width))

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        return self.clone(replace(self.config, n_heads=n_heads, head_width=head_width))

    def with_model_width(self, width: int, padded: bool) -> Family:
        c = self.config
        return self.clone(replace(c, width=width, head_width=c.head_width or c.width // c.n_heads))


class Transformer(Family):
    config: transformer.Config

    def build(self) -> nn.Module:
        return on_meta(lambda: transformer.Net(self.config))

    def layers(self) -> list[str]:
        c = self.config
        return [f"encoder.{i}" for i in range(c.encoder_layers)] + [f"decoder.{i}" for i in range(c.decoder_layers)]

    def sublayers(self, layer: str) -> list[str]:
        names = ["self_attention"] + (["cross_attention"] if layer.startswith("decoder") else [])
        return [f"{layer}.{name}" for name in names]

    def stacks(self) -> list[Stack]:
        c = self.config
        if c.norm == "post":
            raise self.refusal(
                "depth",
                "encoder.0 is post-norm, LN(x + F(x)): a new layer normalises once more whatever its weights, so that zero "
                "insertion is not exact, and splitting does not converge as the step shrinks",
                "feed_forward, heads and head_width can grow; a pre-norm Transformer can grow in depth",
            )

        def block(path: str) -> Block:
            outs = [f"{path}.weight" for path in (*(f"{a}.out" for a in self.sublayers(path)), f"{path}.fc2")]
            biases = [f"{a}.out.bias" for a in self.sublayers(path) if c.attention_bias] + [f"{path}.fc2.bias"]
            return Block(path, (*outs, *biases))

        counts = (("encoder", c.encoder_layers), ("decoder", c.decoder_layers))
        return [Stack(name, tuple(block(f"{name}.{i}") for i in range(n)), "pre") for name, n in counts]

    def feed_forwards(self) -> list[FeedForward]:
        return [FeedForward(p, (Matrix(f"{p}.fc1"),), Matrix(f"{p}.fc2"), self.config.d_ff) for p in self.layers()]

    def attentions(self) -> list[Attention]:
        c = self.config
        found = []
        for path in (p for layer in self.layers() for p in self.sublayers(layer)):
            projections: list[tuple[Matrix, tuple[Role, ...]]] = [
                (Matrix(f"{path}.{role}", bias=c.attention_bias), (role,)) for role in ROLES
            ]
            out = Matrix(f"{path}.out", bias=c.attention_bias)
            found.append(Attention(path, tuple(projections), out, c.n_heads, c.n_heads, c.head_width or c.d_model // c.n_heads))
        return found

    def stream(self) -> Stream:
        raise self.refusal(
            "model_width",
            "the sinusoids of a wider embedding are not copies of those of the old one",
            "feed_forward, heads and head_width can grow",
        )

    def rows(self) -> list[Stack]:
        pre = self.clone(replace(self.config, norm="pre"))
        return pre.stacks()

    def hidden(self) -> tuple[tuple[str, str], ...]:
        return (("fc1.weight", "fc2.weight"),)

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.clone(replace(self.config, encoder_layers=depths[0], decoder_layers=depths[1]))

    def with_feed_forward(self, width: int) -> Family:
        return self.clone(replace(self.config, d_ff=width))

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        return self.clone(replace(self.config, n_heads=n_heads, head_width=head_width))
