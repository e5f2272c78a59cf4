"""The Vision Transformer. A. Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at
scale", arXiv 2010.11929: section 3.1 and Table 1 (Base, Large, Huge).

The sizes Tiny and Small are those of H. Touvron et al., arXiv 2012.12877 (Table 1), used with the paper's training by A.
Steiner et al., arXiv 2106.10270, with whose code B/8 came out too; L/14 is CLIP's patch size (A. Radford et al., arXiv
2103.00020) on the paper's network.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina import units


@dataclass(frozen=True)
class Config:
    patch: int = 16
    depth: int = 12
    width: int = 768  # D, of the tokens
    mlp: int = 3072
    n_heads: int = 12
    head_width: int | None = None  # None: the width over the heads, as in the paper; another one after growing
    copies: int = 1  # of each patch token, which the class token's logit then makes up for; see lamina/scale/tokens.py
    representation: int | None = None  # a hidden layer with tanh before the head, as in pre-training (section 3.1)
    dropout: float = 0.1  # Table 3: on ImageNet and ImageNet-21k; 0 on JFT and in fine-tuning
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 224

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.img_size // self.patch


class Attention(nn.Module):
    """Appendix A: multi-head self-attention. (B, N, D) to the same."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_heads, self.copies = config.n_heads, config.copies
        inner = config.n_heads * (config.head_width or config.width // config.n_heads)
        self.qkv = nn.Linear(config.width, 3 * inner)  # rows: queries, keys, values
        self.out = nn.Linear(inner, config.width)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, N, D / heads)."""
        return self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def weights(self, x: Tensor) -> Tensor:
        """Equation 6, A = softmax(q k^T / sqrt(D / heads)): (B, heads, N, N), each row a distribution over the tokens."""
        q, k, _ = self.heads(x)
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return (logits if self.copies == 1 else logits + self.class_token_bias(x)).softmax(dim=-1)

    def class_token_bias(self, x: Tensor) -> Tensor:
        """log(copies) for the class token: it weighs as much against `copies` equal patch tokens as against one. (1, N)."""
        bias = torch.zeros(1, x.shape[1], device=x.device, dtype=x.dtype)
        bias[:, 0] = math.log(self.copies)
        return bias

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        bias = None if self.copies == 1 else self.class_token_bias(x).expand(x.shape[1], -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, heads, N, D / heads)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Figure 1, right, and equations 2 and 3. (B, N, D) to the same."""

    def __init__(self, config: Config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(config.mlp, config.width)
        self.drop = nn.Dropout(config.dropout)  # after every linear layer but the queries', keys' and values' (appendix B.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.fc2(self.drop(self.gelu(self.fc1(self.norm2(x))))))


class Net(nn.Module):
    """(B, 3, img_size, img_size) to logits (B, num_classes)."""

    def __init__(self, config: Config):
        super().__init__()
        if config.img_size < config.patch or config.img_size % config.patch:
            raise ValueError(f"img_size {config.img_size} is not a multiple of the patch size {config.patch}")
        if config.head_width is None and config.width % config.n_heads:
            raise ValueError(f"width {config.width} is not divisible by {config.n_heads} heads")
        self.config = config
        self.patch_embed = nn.Conv2d(config.in_channels, config.width, config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + config.grid**2, config.width))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        features = config.representation or config.width
        self.pre_logits = nn.Identity()
        if config.representation is not None:
            self.pre_logits = nn.Sequential(nn.Linear(config.width, features), nn.Tanh())
        self.head = nn.Linear(features, config.num_classes)

    def init_weights(self) -> None:
        """The head is zero (section 3.2). For the rest the paper is silent, and the authors' code is followed: Glorot's
        uniform rule in the blocks, LeCun's for the patches, positions of standard deviation 0.02, a class token of zeros."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Block):
                for linear in (module.attention.out, module.fc1, module.fc2):
                    nn.init.xavier_uniform_(linear.weight)
                for part in module.attention.qkv.weight.chunk(3):  # three matrices of D x D
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(module.attention.qkv.bias)
                nn.init.zeros_(module.attention.out.bias)
                nn.init.normal_(module.fc1.bias, std=1e-6)
                nn.init.normal_(module.fc2.bias, std=1e-6)
        for layer in (self.patch_embed, *self.pre_logits.children()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.class_token)
        nn.init.normal_(self.position_embedding, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def tokens(self, x: Tensor) -> Tensor:
        """Equation 1: the class token and the patches, with their positions. (B, C, H, W) to (B, 1 + grid^2, D)."""
        if x.shape[-2:] != (self.config.img_size, self.config.img_size):
            size, given = self.config.img_size, units.shape(x.shape[-2:])
            raise ValueError(f"built for images of {size}x{size}, not {given}: change img_size and resize_positions")
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (B, grid^2, D)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        return self.drop(x + self.position_embedding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.tokens(x)))  # (B, 1 + grid^2, D)
        return self.head(self.pre_logits(x[:, 0]))

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Each block's attention weights (B, heads, 1 + grid^2, 1 + grid^2) on the images `x`: row i says what token i
        looks at, the class token being the first and the patches following row by row."""
        x, maps = self.tokens(x), []
        for block in self.blocks:
            assert isinstance(block, Block)
            maps.append(block.attention.weights(block.norm1(x)))
            x = block(x)
        return maps


def resize_positions(
    embedding: Tensor,
    grid_from: int,
    grid_to: int,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
    align_corners: bool = True,
) -> Tensor:
    """Section 3.2: the position embedding (1, 1 + grid_from^2, D) of another image size, as (1, 1 + grid_to^2, D).

    The class token's stays; the others are interpolated as an image of grid_from x grid_from. The default is torchvision's
    rule; the authors' code is "bilinear", and "bicubic" without `align_corners` is Hugging Face's rule (and timm's, but for
    the smoothing that timm adds).
    """
    if embedding.dim() != 3 or embedding.shape[0] != 1 or embedding.shape[1] != 1 + grid_from**2:
        raise ValueError(
            f"a grid of {grid_from}x{grid_from} has (1, {1 + grid_from**2}, D) positions, not {tuple(embedding.shape)}"
        )
    if grid_from == grid_to:
        return embedding
    token, patches = embedding[:, :1], embedding[:, 1:]
    image = patches.transpose(1, 2).unflatten(2, (grid_from, grid_from)).float()  # (1, D, grid, grid)
    image = F.interpolate(image, size=(grid_to, grid_to), mode=mode, align_corners=align_corners)
    return torch.cat((token, image.flatten(2).transpose(1, 2).to(token.dtype)), dim=1)


TINY = Config(depth=12, width=192, mlp=768, n_heads=3)
SMALL = Config(depth=12, width=384, mlp=1536, n_heads=6)
BASE = Config(depth=12, width=768, mlp=3072, n_heads=12)
LARGE = Config(depth=24, width=1024, mlp=4096, n_heads=16)
HUGE = Config(depth=32, width=1280, mlp=5120, n_heads=16)
VARIANTS = {
    "vit_ti_16": replace(TINY, patch=16),
    "vit_s_16": replace(SMALL, patch=16),
    "vit_s_32": replace(SMALL, patch=32),
    "vit_b_8": replace(BASE, patch=8),
    "vit_b_16": replace(BASE, patch=16),
    "vit_b_32": replace(BASE, patch=32),
    "vit_l_14": replace(LARGE, patch=14),
    "vit_l_16": replace(LARGE, patch=16),
    "vit_l_32": replace(LARGE, patch=32),
    "vit_h_14": replace(HUGE, patch=14),
    # Ours, for 28x28 digits: it ships trained.
    "vit_mnist": Config(
        patch=4,
        depth=6,
        width=64,
        mlp=128,
        n_heads=4,
        dropout=0.0,
        num_classes=10,
        in_channels=1,
        img_size=28,
    ),
}
