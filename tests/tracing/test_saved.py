"""What is kept for the backward pass, to the byte, beside what torch really saves of the same operation on real tensors."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lamina
from lamina.errors import InputError
from lamina.zoo import registry
from tests.saved import peak_bytes, saved_bytes

MAPS, ROWS, HEADS, SQUARE = (2, 6, 8, 8), (8, 16), (2, 4, 8, 16), (8, 8)
PLACES = torch.zeros(8, 5, dtype=torch.long)
STEPS = (10, 8, 20)  # steps, sequences, features


class Of(nn.Module):
    """An operation of something that a gradient flows to, so that nothing is kept for want of one."""

    def __init__(self, operation):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.operation = operation

    def forward(self, *inputs):
        return self.operation(*(x * self.one for x in inputs))


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


def attention(**options):
    return lambda x: F.scaled_dot_product_attention(x, x * 2, x * 3, **options)


OPERATIONS = {
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), MAPS),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), MAPS),
    "antialiased": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), MAPS),
    "lerp": (lambda x: torch.lerp(x, x * 2, 0.3), SQUARE),
    "lerp by a tensor": (lambda x: torch.lerp(x, x * 2, x + 1), SQUARE),
    "cumsum": (lambda x: x.cumsum(1), SQUARE),
    "cumprod": (lambda x: x.cumprod(1), SQUARE),
    "cummax": (lambda x: x.cummax(1)[0], ROWS),
    "tril": (torch.tril, SQUARE),
    "sort": (lambda x: x.sort(-1)[0], SQUARE),
    "gather": (lambda x: x.gather(1, PLACES), SQUARE),
    "index_select": (lambda x: x.index_select(1, PLACES[0]), SQUARE),
    "take_along_dim": (lambda x: torch.take_along_dim(x, PLACES, 1), ROWS),
    "rows by a tensor": (lambda x: x[torch.tensor([1, 2, 3])], SQUARE),
    "columns by a tensor": (lambda x: x[:, torch.tensor([1, 2, 3])], SQUARE),
    "scatter": (lambda x: x.scatter(1, PLACES, x[:, :5]), ROWS),
    "scatter_add": (lambda x: x.scatter_add(1, PLACES, x[:, :5]), ROWS),
    "index_add": (lambda x: x.index_add(0, PLACES[0, :3], x[:3]), ROWS),
    "bags, added": (lambda x: F.embedding_bag(PLACES, x, mode="sum"), ROWS),
    "bags, their mean": (lambda x: F.embedding_bag(PLACES, x, mode="mean"), ROWS),
    "bags, their largest": (lambda x: F.embedding_bag(PLACES, x, mode="max"), ROWS),
    "bags, padded": (lambda x: F.embedding_bag(PLACES, x, mode="sum", padding_idx=1), ROWS),
    "bags by offsets": (lambda x: F.embedding_bag(PLACES[0], x, torch.tensor([0, 2, 3]), mode="mean"), ROWS),
    "bags, weighted": (lambda x: F.embedding_bag(PLACES, x, mode="sum", per_sample_weights=x[:, :5] + 1), ROWS),
    "reflect": (lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"), MAPS),
    "replicate": (lambda x: F.pad(x, (2, 2, 2, 2), mode="replicate"), MAPS),
    "zeros around": (lambda x: F.pad(x, (2, 2)), MAPS),
    "cosine_similarity": (lambda x: F.cosine_similarity(x, x * 2), ROWS),
    "pairwise_distance": (lambda x: F.pairwise_distance(x, x * 2), ROWS),
    "normalize": (F.normalize, ROWS),
    "var": (lambda x: x.var(1), ROWS),
    "max": (lambda x: x.max(1)[0], ROWS),
    "addcdiv": (lambda x: torch.addcdiv(x, x * 2, x * 3), ROWS),
    "glu": (F.glu, ROWS),
    "prelu": (nn.PReLU(), ROWS),
    "softshrink": (F.softshrink, ROWS),
    "SiLU in place": (lambda x: F.silu(x * 2, inplace=True), ROWS),
    "dropout": (lambda x: F.dropout(x, 0.3), ROWS),
    "dropout in place": (lambda x: F.dropout(x * 2, 0.3, inplace=True), ROWS),
    "dropout of maps": (lambda x: F.dropout2d(x, 0.3), MAPS),
    "instance norm": (nn.InstanceNorm2d(6), MAPS),
    "RMS norm": (nn.RMSNorm(16), ROWS),
    "RMS norm without a scale": (nn.RMSNorm(16, elementwise_affine=False), ROWS),
    "response norm": (nn.LocalResponseNorm(3), MAPS),
    "adaptive max pool": (nn.AdaptiveMaxPool2d(3), MAPS),
    "grid_sample": (lambda x: F.grid_sample(x, torch.zeros(2, 4, 4, 2), align_corners=False), MAPS),
    "unfold": (lambda x: F.unfold(x, 3), MAPS),
    "einsum": (lambda x: torch.einsum("bij,bjk->bik", x, x * 2), (2, 8, 8)),
    "outer": (lambda x: torch.outer(x, x * 2), (8,)),
    "kron": (lambda x: torch.kron(x, x), (3, 3)),
    "cross entropy": (lambda x: F.cross_entropy(x, PLACES[:, 0]), ROWS),
    "mean squared error": (lambda x: F.mse_loss(x, torch.zeros(ROWS)), ROWS),
    "absolute error": (lambda x: F.l1_loss(x, torch.zeros(ROWS)), ROWS),
    "KL divergence": (lambda x: F.kl_div(x, torch.zeros(ROWS), reduction="batchmean"), ROWS),
    "Fourier": (lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2), ROWS),
    "inverse": (torch.linalg.inv, (4, 4)),
    "determinant": (torch.linalg.det, (4, 4)),
    "arctangent": (lambda x: torch.atan2(x, x * 2), ROWS),
    "convolution, reflected": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), MAPS),
    "transposed operands": (lambda x: (x.mT * 2) @ (x.mT * 3).exp(), (2, 8, 8)),
    "a broadcast copy": (lambda x: (x.transpose(1, 2) * 2).unsqueeze(2).expand(2, 8, 3, 4, 16).reshape(2, 24, 64).exp(), HEADS),
    # Attention: fused, and made of other operations where the CPU's kernel does not do.
    "attention": (attention(), HEADS),
    "attention, causal": (attention(is_causal=True), HEADS),
    "attention, boolean mask": (attention(attn_mask=torch.ones(SQUARE, dtype=torch.bool)), HEADS),
    "attention, added mask": (attention(attn_mask=torch.ones(SQUARE)), HEADS),
    "attention, learned mask": (lambda x: F.scaled_dot_product_attention(x, x, x, x[..., :8] * 2), HEADS),
    "attention, dropout": (attention(dropout_p=0.1), HEADS),
    "attention, dropout and mask": (attention(dropout_p=0.1, attn_mask=torch.ones(SQUARE, dtype=torch.bool)), HEADS),
    "attention, causal, dropout": (attention(dropout_p=0.1, is_causal=True), HEADS),
    "attention, three axes": (attention(), (4, 8, 16)),
    "attention, other values": (lambda x: F.scaled_dot_product_attention(x, x * 2, x[..., :8] * 3), HEADS),
    "attention, grouped": (lambda x: F.scaled_dot_product_attention(x, x[:, :2] * 2, x[:, :2] * 3, enable_gqa=True), HEADS),
    "attention, heads last": (lambda x: attention()(x.transpose(1, 2)), (2, 8, 4, 16)),
    "attention, heads last, dropout": (lambda x: attention(dropout_p=0.1)(x.transpose(1, 2)), (2, 8, 4, 16)),
    "attention of a module": (Attention(), (2, 8, 16)),
    "attention of a module, dropout": (Attention(dropout=0.1), (2, 8, 16)),
    "encoder layer": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (2, 8, 16)),
    # Recurrence: oneDNN's LSTM, and cells made of other operations.
    "LSTM": (nn.LSTM(20, 40, 2), STEPS),
    "LSTM, wide input": (nn.LSTM(200, 40), (10, 8, 200)),
    "LSTM, 256 wide": (nn.LSTM(20, 256), STEPS),
    "LSTM, batch first": (nn.LSTM(20, 40, batch_first=True), STEPS),
    "LSTM, dropout": (nn.LSTM(20, 40, 2, dropout=0.3), STEPS),
    "LSTM, both ways": (nn.LSTM(20, 40, 2, bidirectional=True), STEPS),
    "LSTM, both ways, batch first": (nn.LSTM(20, 40, batch_first=True, bidirectional=True), STEPS),
    "LSTM, projected": (nn.LSTM(20, 40, proj_size=8), STEPS),
    "GRU": (nn.GRU(20, 40, 2), STEPS),
    "GRU, batch first, both ways": (nn.GRU(20, 40, batch_first=True, bidirectional=True), STEPS),
    "GRU, dropout": (nn.GRU(20, 40, 2, dropout=0.3), STEPS),
    "RNN": (nn.RNN(20, 40), STEPS),
    "RNN, ReLU": (nn.RNN(20, 40, 2, nonlinearity="relu"), STEPS),
    "LSTM cell": (nn.LSTMCell(20, 40), (8, 20)),
    "GRU cell": (nn.GRUCell(20, 40), (8, 20)),
    "RNN cell": (nn.RNNCell(20, 40), (8, 20)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_what_torch_keeps(name):
    operation, shape = OPERATIONS[name]
    module, x = Of(operation).train(), torch.randn(shape)
    assert lamina.trace(module, x).saved_bytes == saved_bytes(module, x)


# Without what torch has fused kernels for outside of a trace, and without masks, which the operation finds outside.
PEAKS = [name for name in OPERATIONS if name.startswith(("LSTM", "GRU", "RNN", "RMS", "attention", "response"))]
PEAKS += ["bilinear", "cosine_similarity", "cumsum", "normalize", "einsum", "reflect"]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [n for n in PEAKS if not any(word in n for word in ("dropout", "module", "boolean", "added"))])
def test_an_operation_has_alive_what_torch_has(name):
    operation, shape = OPERATIONS[name]
    module, x = Of(operation).eval(), torch.randn(shape)
    assert lamina.trace(module, x).peak_activation_bytes == peak_bytes(module, x)


@pytest.mark.parametrize(
    ("length", "width", "dtype"), list(itertools.product((1, 7), (16, 200), (torch.float32, torch.bfloat16))), ids=str
)
def test_the_workspace_of_an_lstm(length, width, dtype):
    """The formula is oneDNN's, whose sizes depend on pages and cache lines."""
    module, x = nn.LSTM(24, width, dtype=dtype).train(), torch.randn(length, 3, 24, dtype=dtype)
    assert lamina.trace(module, x).saved_bytes == saved_bytes(module, x)


@pytest.mark.parametrize(
    "name",
    [
        *("lenet5", "lenet5_dense", "lenet_caffe", "alexnet", "vgg11", "resnet18", "resnet20_cifar", "densenet_40_12_cifar"),
        *("vit_mnist", "transformer_de_en"),
    ],
)
def test_zoo_networks_keep_what_torch_keeps(name):
    module = registry.build(name).train()
    inputs = [torch.zeros(2, *x.shape[1:], dtype=x.dtype) for x in registry.example(name)]
    assert lamina.trace(module, *inputs).saved_bytes == saved_bytes(module, *inputs)


def test_a_gpu_fuses_attention_with_dropout():
    """Query, key, value and result, a logarithm per row, and the generator's place in place of a mask."""
    module, x = Of(attention(dropout_p=0.1)).train(), torch.empty(HEADS)
    own = x.numel() * 4  # what the product with the parameter keeps
    assert lamina.trace(module, x, device="cuda").saved_bytes == own + 4 * x.numel() * 4 + 4 * 2 * 4 * 8 + 16
    dropped = Of(F.dropout).train()
    assert lamina.trace(dropped, x, device="cuda").saved_bytes == own + x.numel()  # a byte each
    assert lamina.trace(dropped, x).saved_bytes == own + 4 * x.numel()
    assert (lamina.trace(module, x).device, lamina.trace(module, x, device="cuda").device) == ("cpu", "cuda")


def test_only_devices_whose_kernels_are_known():
    with pytest.raises(InputError, match="device 'tpu': memory is known for cpu and cuda"):
        lamina.trace(nn.Linear(2, 2), torch.empty(1, 2), device="tpu")


def test_an_operation_in_other_peoples_python_that_writes_is_run_once():
    """Its second run would write again."""
    from torch.overrides import handle_torch_function, has_torch_function

    counter = torch.zeros(3)

    def count(x):
        if has_torch_function((x,)):
            return handle_torch_function(count, (x,), x)
        counter.add_(1)
        return x.exp()

    work = lamina.trace(Of(count), torch.empty(3))
    assert counter.tolist() == [0, 0, 0] and work.saved_bytes >= 24


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_scripted_function_keeps_what_its_operators_keep():
    def function(q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v

    scripted = torch.jit.script(function)
    module, x = Of(lambda x: scripted(x, x * 2, x * 3)).train(), torch.randn(2, 8, 16)
    assert lamina.trace(module, x).saved_bytes == saved_bytes(module, x)
