# ruff: noqa: E501 (tables of calls)
"""Tracing what people bring: custom operators, values that decide, errors, and a forward that stores things."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import lamina
from lamina.cost import record
from lamina.errors import InputError, LaminaError
from lamina.tracing.tracer import trace
from lamina.workload import Loops
from tests.tracing.test_trace import by_operators, products


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


# ---- custom operators ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("lamina_tests::mix", mutates_args=())
def mix(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w.t()


@torch.library.custom_op("lamina_tests::mix_faked", mutates_args=())
def mix_faked(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w.t()


@mix_faked.register_fake
def _(x, w):
    return x.new_empty(x.shape[0], w.shape[0])


def described(x, w):
    return (x[0], w[0]), Loops(N=x[0], M=w[0], C=x[1])


def test_a_custom_operator_is_described_by_a_function_of_shapes():
    x, w = meta(3, 4), meta(5, 4)
    for op, function in (
        (torch.ops.lamina_tests.mix, described),
        (torch.ops.lamina_tests.mix.default, described),
        (mix, described),
        (mix_faked, lambda x, w: (None, x[0] * x[1] * w[0])),  # the fake kernel knows the shape
    ):
        call = mix_faked if op is mix_faked else mix
        with lamina.register(op, function):
            work = trace(Calls(call), x, w)
        (layer,) = work.layers
        assert (layer.macs, layer.outputs[0].shape, layer.kind) == (3 * 4 * 5, (3, 5), "matmul")
        assert work.coverage.unknown == ()
        assert [t.id for t in layer.inputs] == list(layer.loops[0].operands[:2])


def test_a_custom_operator_that_nobody_described():
    x, w = meta(3, 4), meta(5, 4)
    with pytest.raises(InputError, match=r"lamina_tests\.mix.*no meta \(fake\) kernel.*lamina\.register"):
        trace(Calls(mix), x, w)
    (unknown,) = trace(Calls(mix_faked), x, w).coverage.unknown
    assert (unknown.op, unknown.outputs) == ("lamina_tests.mix_faked.default", ((3, 5),))


def test_a_registration_can_be_undone():
    x, w = meta(3, 4), meta(5, 4)
    first = lamina.register(mix, described)
    second = lamina.register(mix, lambda x, w: ((x[0], w[0]), 7))
    assert trace(Calls(mix), x, w).total().macs == 7
    second.remove()
    assert trace(Calls(mix), x, w).total().macs == 60
    first.remove()
    first.remove()
    with pytest.raises(InputError):
        trace(Calls(mix), x, w)
    with lamina.register(torch.cumsum, lambda x, dim: (x, 1)):  # any function of torch
        assert trace(Calls(lambda x: torch.cumsum(x, 0)), x).total().macs == 1
    with lamina.register(mix, lambda x: (x, 1)), pytest.raises(InputError, match="must take its arguments"):
        trace(Calls(mix), x, w)


# ---- values -------------------------------------------------------------------------------------------------------------


class Peeks(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def test_a_value_that_decides_names_the_line():
    with pytest.raises(
        InputError, match=r"Peeks.*value of a tensor decides the way.*test_trace_any.py:\d+ \(`if x.sum\(\) > 0:`\)"
    ):
        trace(Peeks(), torch.ones(3))
    for function in (
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: x.unique(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x * int(x.max()),
    ):
        with pytest.raises(InputError, match=r"needs the value of a tensor.*test_trace_any.py:\d+"):
            trace(Calls(function), torch.ones(3))


def test_small_integers_keep_their_values():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, lengths):
            ends = lengths.cumsum(0)
            for end in ends.tolist():
                self.linear(x[:end])
            if (lengths > 5).any():
                x = self.linear(x)
            position = torch.arange(int(ends[-1]), device=x.device)
            return x[: int(position[-1]) + 1].split(lengths.to(x.device).tolist())

    work = trace(Steps(), torch.rand(9, 4), torch.tensor([1, 2]))
    assert work.total().macs == (1 + 3) * 4 * 4
    assert [t.shape for t in work.layers[-1].outputs] == [(1, 4), (2, 4)]


def test_a_value_written_by_a_trace_is_not_read():
    def stale(x):
        mask = torch.zeros(3, dtype=torch.bool)
        mask[:] = x > 0
        return x if mask.any() else -x

    with pytest.raises(InputError, match="decides the way"):
        trace(Calls(stale), torch.rand(3))


# ---- errors -------------------------------------------------------------------------------------------------------------


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, mask, *, scale, offset=0):
        x = self.linear(x)
        raise KeyError("no such head")


def test_the_forward_s_own_error():
    with pytest.raises(LaminaError, match=r"Raises.*KeyError: 'no such head'; at test_trace_any.py:\d+ \(`raise KeyError"):
        trace(Raises(), torch.rand(2, 3), None, scale=1)
    with pytest.raises(InputError, match=r"Raises needs `mask` and `scale`, which the call did not give"):
        trace(Raises(), torch.rand(2, 3))
    with pytest.raises(InputError, match=r"^linear \(Linear\): takes 3 features, got 4"):
        trace(Raises(), torch.rand(2, 4), None, scale=1)
    with pytest.raises(InputError, match=r"RuntimeError: .*; at test_trace_any.py"):
        trace(Calls(lambda x: x.view(7)), torch.rand(2, 4))


# ---- nothing is left ----------------------------------------------------------------------------------------------------


class Stores(nn.Module):
    """Everything that a forward should rather not do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.register_buffer("table", torch.zeros(1, 4))
        self.seen, self.cache, self.flags, self.last = [], {}, {"a"}, None
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, fail=False):
        self.last = x
        self.inner.stored = x
        self.seen.append(x)
        self.cache["x"] = x
        self.flags.add("b")
        self.inner[0].eval()
        self.table = torch.ones(x.shape[0], 4)
        self.table += 1
        self.weight.data.mul_(2)
        self.weight.requires_grad = False
        self.other = nn.Linear(4, 4)
        del self.inner[1]._buffers["running_var"]
        self.inner[1].register_buffer("running_var", torch.full((4,), 3.0))
        self.inner[0].register_forward_hook(lambda *_: None)
        self.register_state_dict_post_hook(lambda *_: None)
        x = F.dropout(self.inner(x) + torch.rand(4) + torch.randn_like(x), 0.5, True)
        torch.nn.init.normal_(torch.empty(3))
        if fail:
            raise RuntimeError("late")
        return x


def everything(module: nn.Module) -> list:
    """Attributes by identity, containers' items too, and what the whole process shares."""
    hooks = vars(nn.modules.module)
    state = [{k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()]
    found = []
    for name, child in module.named_modules():
        for key, value in vars(child).items():
            items = (
                list(map(id, value.values() if isinstance(value, dict) else value))
                if isinstance(value, (list, dict, set))
                else []
            )
            found.append((name, key, id(value), items))
    shared = [len(hooks[k]) for k in hooks if k.startswith("_global") and "hooks" in k]
    functions = [id(f) for home in (torch, F, torch.Tensor) for f in vars(home).values() if callable(f)]
    flags = [(p.requires_grad, p.grad, p.device.type) for p in module.parameters()]
    functions.append(id(nn.Module._call_impl))
    return [found, shared, functions, flags, [m.training for m in module.modules()], torch.is_grad_enabled(), state]


def same(a: list, b: list) -> bool:
    (state, random), (other, other_random) = a[-1], b[-1]
    equal = list(state) == list(other) and all(torch.equal(state[k], other[k]) for k in state)
    return a[:-1] == b[:-1] and equal and torch.equal(random, other_random)


@pytest.mark.parametrize("train", [False, True])
def test_a_forward_that_stores_things_leaves_nothing(train):
    module, x = Stores().train(train), torch.rand(3, 4)
    before = everything(module)
    first = trace(module, x)
    assert same(before, everything(module))
    with pytest.raises(InputError, match="RuntimeError: late"):
        trace(module, x, fail=True)
    assert same(before, everything(module))
    with pytest.raises(InputError, match="features"):
        trace(module, torch.zeros(3, 5))
    assert same(before, everything(module))
    assert trace(module, x) == first


def test_a_module_whose_attributes_lie_in_another_order_is_put_back():
    """One from an old file: `__setstate__` adds what it lacks at the end."""
    module, x = Stores(), torch.rand(3, 4)
    for child in module.modules():
        own = dict(vars(child))
        vars(child).clear()
        vars(child).update({k: own[k] for k in sorted(own, reverse=True)})
    before = everything(module)
    trace(module, x)
    assert same(before, everything(module))
    for child in module.modules():
        del child._load_state_dict_post_hooks
    before = everything(module)
    trace(module, x)
    assert same(before, everything(module))


def test_two_threads_store_and_leave_nothing():
    errors = []

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.mask = nn.Linear(4, 4), None

        def forward(self, x):
            if self.mask is None or self.mask.shape != x.shape:
                self.mask = torch.ones_like(x)
            return self.linear(x) * self.mask

    cached = Cached()
    before = everything(cached)
    expected = [trace(cached, torch.zeros(n, 4)).total() for n in (2, 5)]

    def work(n: int, right) -> None:
        for _ in range(20):
            if trace(cached, torch.zeros(n, 4)).total() != right:
                errors.append(n)

    threads = [threading.Thread(target=work, args=pair) for pair in zip((2, 5), expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert cached.mask is None
    assert same(before, everything(cached))


# ---- the backward pass --------------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 4)
        self.body.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            y = self.head(x[:, :5])
        return self.head(self.body(x)) + y


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(36, 5)), (2, 3, 11, 11)),
        (nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3)), (7, 6)),
        (Frozen(), (7, 6)),
        (nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True), (2, 5, 16)),
    ],
    ids=["conv", "linear", "frozen", "encoder"],
)  # fmt: skip
def test_backward_products_are_those_of_a_real_backward(module, shape):
    """Against a count of the operators of a real one, with attention by hand: its fused kernel recomputes. (That tool counts
    the weights' gradient of a grouped convolution several times: none is here.)"""
    module = module.train()
    x = torch.rand(shape)
    work = trace(module, x)
    with FlopCounterMode(display=False) as forward, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        result = module(x)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    module.zero_grad()
    assert work.total().macs == forward.get_total_flops() // 2
    assert work.total().backward_macs == backward.get_total_flops() // 2


def test_backward_of_a_transposed_convolution():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2))
    work = trace(module, torch.rand(1, 3, 5, 5))
    first, second = 25 * 4 * 3 * 9, 25 * 4 * 3 * 9
    assert work.total().macs == first + second
    assert work.total().backward_macs == first + 2 * second  # the image needs no gradient
    module[1].requires_grad_(False)
    assert trace(module, torch.rand(1, 3, 5, 5)).total().backward_macs == first + second
    assert trace(module.requires_grad_(False), torch.rand(1, 3, 5, 5)).total().backward_macs == 0


# ---- every operator -----------------------------------------------------------------------------------------------------


def test_operators_that_compute_no_products_are_known():
    x, p, v = meta(2, 6, 8, 10), meta(2, 3, 8, 8, 8), meta(4, 10)
    ids = torch.zeros(4, 3, dtype=torch.long)
    calls = {
        "interpolate": lambda: [F.interpolate(x, scale_factor=2.0, mode=m) for m in ("nearest", "bilinear", "bicubic", "area")],
        "antialias": lambda: F.interpolate(x, (4, 5), mode="bilinear", antialias=True),
        "volume": lambda: (F.interpolate(p, scale_factor=2, mode="trilinear"), F.max_pool3d(p, 2), F.avg_pool3d(p, 2)),
        "grid_sample": lambda: F.grid_sample(x, meta(2, 5, 5, 2), align_corners=False),
        "affine_grid": lambda: F.affine_grid(meta(2, 2, 3), [2, 6, 8, 10], align_corners=False),
        "shuffle": lambda: (F.pixel_shuffle(meta(1, 8, 3, 3), 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 3)),
        "unfold": lambda: F.fold(F.unfold(x, 3, padding=1), (8, 10), 3, padding=1),
        "pools": lambda: (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2), F.lp_pool2d(x, 2, 3), F.max_pool2d(x, 2, return_indices=True)),
        "adaptive": lambda: (F.adaptive_max_pool2d(x, 3), F.adaptive_avg_pool2d(x, (None, 3)), F.adaptive_avg_pool3d(p, 2)),
        "norms": lambda: (F.group_norm(x, 3), F.instance_norm(x), F.rms_norm(x, (10,)), F.local_response_norm(x, 3), F.normalize(x)),
        "train_norms": lambda: F.batch_norm(x, None, None, training=True),
        "moves": lambda: (x.roll(2, -1), x.flip(1), torch.rot90(x, 1, (2, 3)), F.pad(x, (1, 2), "reflect"), x.repeat(2, 1, 1, 1)),
        "sums": lambda: (x.cumsum(1), x.logsumexp(1), x.std(), x.var((1, 2)), x.norm(), x.prod(1), x.cumprod(1), x.amax(1)),
        "order": lambda: (x.sort(-1), x.topk(3), x.argsort(1), x.max(1), x.min(), x.median(1), x.kthvalue(2), x.argmax(1)),
        "gather": lambda: (v.gather(1, ids), v.index_select(0, ids[:, 0]), v[ids[:, 0]], v.scatter(1, ids, 0.0), v.take_along_dim(ids, 1)),
        "scatter": lambda: (v.scatter_add(1, ids, meta(4, 3)), v.index_add(0, ids[:, 0], v), v.scatter_reduce(1, ids, meta(4, 3), "amax")),
        "distance": lambda: (torch.cdist(meta(3, 4), meta(5, 4), p=1.0), F.pairwise_distance(v, v), F.cosine_similarity(v, v)),
        "fft": lambda: torch.fft.irfft2(torch.fft.rfft2(x)),
        "bag": lambda: F.embedding_bag(ids, v, mode="sum"),
        "activations": lambda: [f(x) for f in (F.glu, F.mish, F.hardswish, F.elu, F.softplus, F.softsign, F.logsigmoid, F.hardsigmoid,
                                               F.tanhshrink, F.softshrink, F.celu, F.selu, F.leaky_relu, F.rrelu)],
        "prelu": lambda: F.prelu(x, meta(6)),
        "losses": lambda: (F.mse_loss(v, v), F.cross_entropy(v, ids[:, 0]), F.smooth_l1_loss(v, v), F.kl_div(v, v, reduction="sum"),
                           F.binary_cross_entropy_with_logits(v, v), F.huber_loss(v, v)),
        "logic": lambda: (torch.where(x > 0, x, 0.0), x.clamp(0, 1), (x > 0) & (x < 1), ~(x > 0), x.isnan(), x.nan_to_num(), x.tril()),
        "trigonometry": lambda: (x.sin(), x.atan2(x), torch.polar(v, v), x.exp2(), x.lerp(x, 0.5), torch.addcmul(x, x, x), x.sign()),
        "random": lambda: (torch.rand(3), torch.randn_like(x), F.dropout2d(x), F.gumbel_softmax(v), torch.randperm(5), x.new_empty(3).normal_()),
        "ints": lambda: (ids + 1, ids // 2, ids % 3, ids.float() / 2, F.one_hot(ids, 4), torch.bincount(ids.flatten()), ids.unique()),
        "meshes": lambda: (torch.meshgrid(v[0], v[1], indexing="ij"), torch.linspace(0, 1, 5), torch.eye(3), torch.tril_indices(3, 3)),
        "complex": lambda: torch.view_as_real(torch.view_as_complex(meta(3, 2)) * torch.polar(meta(3), meta(3))),
    }  # fmt: skip
    for name, call in calls.items():
        work = trace(lambda x, call=call: call(), x)
        assert work.coverage.unknown == (), name
        assert work.layers, name
        assert work.total().macs == 0, name


def test_operators_without_a_rule_are_listed():
    a = meta(4, 4)
    for call in (torch.linalg.inv, torch.linalg.svd, torch.linalg.eigh, torch.special.i0e, torch.lgamma):
        work = trace(Calls(call), a)
        assert work.coverage.unknown, call
        assert work.coverage.unknown[0].inputs[0] == (4, 4)
    with pytest.raises(InputError, match=r"fake_quantize.*no meta"):
        trace(Calls(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)), a)


# ---- the two levels -----------------------------------------------------------------------------------------------------


def _written(x):
    y = torch.zeros_like(x)
    y[:, :1] = x[:, :1]
    y[..., 2] = 1.0
    return y + x.new_ones(x.shape[-1])


STEPS = {
    "linear": lambda d, x: F.linear(x, d["w"]),
    "matmul": lambda d, x: x @ d["w"],
    "addmm": lambda d, x: torch.addmm(d["b"], x.flatten(0, 1), d["w"]).view_as(x),
    "einsum": lambda d, x: torch.einsum("bsd,de->bse", x, d["w"]),
    "attention": lambda d, x: F.scaled_dot_product_attention(x, x, x),
    "softmax": lambda d, x: x.softmax(-1),
    "log_softmax": lambda d, x: F.log_softmax(x, 1),
    "layer_norm": lambda d, x: F.layer_norm(x, (6,), d["b"], d["b"]),
    "rms_norm": lambda d, x: F.rms_norm(x, (6,), d["b"]),
    "group_norm": lambda d, x: F.group_norm(x.transpose(1, 2), 3, d["b"], d["b"]).transpose(1, 2),
    "gelu": lambda d, x: F.gelu(x),
    "silu": lambda d, x: F.silu(x, inplace=True),
    "hardswish": lambda d, x: F.hardswish(x),
    "leaky_relu": lambda d, x: F.leaky_relu(x, 0.1, True),
    "elu": lambda d, x: F.elu(x),
    "mish": lambda d, x: F.mish(x),
    "add": lambda d, x: x + d["b"],
    "rsub": lambda d, x: 1 - x,
    "mul": lambda d, x: x * x[:, :1],
    "div": lambda d, x: x / 3,
    "rdiv": lambda d, x: 3 / x,
    "isub": lambda d, x: x.clone().sub_(d["b"]),
    "masked_fill": lambda d, x: x.masked_fill(x > 0, 0.5),
    "where": lambda d, x: torch.where(x.lt(0), x, 0.0),
    "pow": lambda d, x: x**2 + x.pow(0.5),
    "rsqrt": lambda d, x: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt(),
    "trig": lambda d, x: x.cos() - x.sin() + x.exp().neg(),
    "clamp": lambda d, x: x.clamp(-1, 1),
    "sum": lambda d, x: x + x.sum(1, keepdim=True),
    "amax": lambda d, x: x - x.amax((-1,), keepdim=True),
    "cat": lambda d, x: torch.cat((x[..., 3:], -x[..., :3]), -1),
    "stack": lambda d, x: torch.stack((x, x), 1).flatten(0, 1)[: x.shape[0]],
    "roll": lambda d, x: x.roll(1, 1).flip(0),
    "setitem": lambda d, x: _written(x),
    "permute": lambda d, x: (
        x.permute(0, 2, 1).reshape(x.shape[0], -1, 6) if x.shape[1] == 6 else x.permute(0, 2, 1).permute(0, 2, 1)
    ),
    "heads": lambda d, x: x.unflatten(-1, (2, 3)).transpose(1, 2).contiguous().transpose(1, 2).reshape(-1, *x.shape[1:]),
    "merged": lambda d, x: x.reshape(*x.shape[:2], 2, 3).permute(3, 1, 2, 0).reshape(-1, x.shape[1], 6)[: x.shape[0]],
    "index": lambda d, x: x + d["w"][d["i"]],
    "chunk": lambda d, x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "split": lambda d, x: x.split([2, 4], -1)[1].repeat(1, 1, 2)[..., :6],
    "bf16": lambda d, x: (x.bfloat16().float() + x.to(torch.float16)).type_as(x),
    "pool": lambda d, x: F.adaptive_avg_pool1d(x, 6),
    "pad": lambda d, x: F.pad(x, (1, 1))[..., 1:-1],
    "expand": lambda d, x: x + d["b"].expand(x.shape[0], 1, 6),
    "dropout": lambda d, x: F.dropout(x, 0.1),
    "topk": lambda d, x: x * x.topk(1, -1)[0],
    "embedding": lambda d, x: x + F.embedding(d["i"], d["w"]).unsqueeze(1)[:1],
    "unbind": lambda d, x: torch.stack(x.unbind(1), 1),
    "T": lambda d, x: x.mT.mT @ d["w"].T,
}


class Random(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.w, self.b = nn.Parameter(meta(6, 6)), nn.Parameter(meta(6))
        self.register_buffer("i", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        known = {"w": self.w, "b": self.b, "i": self.i}
        for step in self.steps:
            x = STEPS[step](known, x)
        return x


@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6), st.integers(1, 3), st.sampled_from([1, 4, 6]))
@settings(max_examples=80, deadline=None)
def test_both_levels_agree_on_random_sequences(steps, batch, length):
    module = Random(steps)
    x = meta(batch, length, 6)
    expected = module(x.clone())
    above, below = trace(module, x), by_operators(module, x)
    assert above.layers[-1].outputs[0].shape == below.layers[-1].outputs[0].shape == tuple(expected.shape)
    assert above.layers[-1].outputs[0].dtype == below.layers[-1].outputs[0].dtype == str(expected.dtype)[6:]
    assert [(kind, [n.macs for n in loops], shapes) for _, kind, loops, shapes, _ in products(above)] == [
        (kind, [n.macs for n in loops], shapes) for _, kind, loops, shapes, _ in products(below)
    ]
    assert above.coverage.unknown == below.coverage.unknown == ()
    assert above.total().parameters == below.total().parameters


@pytest.mark.parametrize("step", sorted(STEPS))
def test_each_rule_agrees_with_the_meta_kernels(step):
    module, x = Random([step]), meta(2, 6, 6)
    above, below = trace(module, x), by_operators(module, x)
    assert above.total().macs == below.total().macs
    assert above.layers[-1].outputs[0].shape == below.layers[-1].outputs[0].shape
    assert above.layers[-1].outputs[0].dtype == below.layers[-1].outputs[0].dtype
    assert above.layers[-1].kind == below.layers[-1].kind
    assert above.coverage.unknown == below.coverage.unknown == ()


# ---- what is reported ---------------------------------------------------------------------------------------------------


def test_parameters_by_type_and_buffers():
    module = nn.Sequential(nn.Linear(4, 8).bfloat16(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    module[0].requires_grad_(False)
    work = trace(Calls(lambda: None), name="nothing")
    assert work.total().parameters == 0
    work = trace(nn.Sequential(*[module[2]]), torch.rand(1, 8))
    assert record.parameters_by_dtype(work) == {"float32": 18}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = module

        def forward(self, x):
            return self.net[2](self.net[1](self.net[0](x.bfloat16()).float()))

    work = trace(Net().eval(), torch.rand(3, 4))
    total = work.total()
    assert record.parameters_by_dtype(work) == {"bfloat16": 40, "float32": 16 + 18}
    assert (total.trainable, total.parameter_bytes) == (34, 2 * 40 + 4 * 34)
    assert (work.buffers, work.buffer_bytes) == (8 + 8 + 1, 4 * 16 + 8)
    assert total.intensity == total.flops / (total.bytes_read + total.bytes_written)
    summary = record.summary(work)
    assert work.macs == total.macs == 3 * (4 * 8 + 8 * 2)
    assert summary["parameters_active"] == total.parameters
    assert summary["parameters_trainable"] == 34
