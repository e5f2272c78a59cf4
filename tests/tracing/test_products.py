"""Products under every spelling: positional and keyword operands, results of their own, in a given tensor, in place."""

import pytest
import torch

from lamina.tracing.tracer import trace

X, W, S = torch.empty(2, 3), torch.empty(3, 4), torch.empty(2, 4)
BX, BW, BS = torch.empty(5, 2, 3), torch.empty(5, 3, 4), torch.empty(5, 2, 4)
# 2·4·3 MACs, five times that for a batch; sums add one for each of the results.
FORMS = {
    "mm mat2=": (lambda x, w, s: torch.mm(x, mat2=w), (X, W, S), 24, 0),
    "mm method": (lambda x, w, s: x.mm(mat2=w), (X, W, S), 24, 0),
    "mm input=": (lambda x, w, s: torch.mm(input=x, mat2=w), (X, W, S), 24, 0),
    "matmul other=": (lambda x, w, s: torch.matmul(x, other=w), (X, W, S), 24, 0),
    "bmm mat2=": (lambda x, w, s: torch.bmm(x, mat2=w), (BX, BW, BS), 120, 0),
    "addmm": (lambda x, w, s: torch.addmm(s, mat1=x, mat2=w), (X, W, S), 24, 8),
    "addmm method": (lambda x, w, s: s.addmm(x, mat2=w), (X, W, S), 24, 8),
    "baddbmm": (lambda x, w, s: torch.baddbmm(s, batch1=x, batch2=w, beta=0.5), (BX, BW, BS), 120, 40),
    "mm out=": (lambda x, w, s: torch.mm(x, w, out=s), (X, W, S), 24, 0),
    "matmul out=": (lambda x, w, s: torch.matmul(x, w, out=s), (X, W, S), 24, 0),
    "bmm out=": (lambda x, w, s: torch.bmm(x, w, out=s), (BX, BW, BS), 120, 0),
    "addmm out=": (lambda x, w, s: torch.addmm(s, x, w, out=s), (X, W, S), 24, 8),
    "addmm_": (lambda x, w, s: s.addmm_(x, w), (X, W, S), 24, 8),
    "addmm_ mat1=": (lambda x, w, s: s.addmm_(mat1=x, mat2=w), (X, W, S), 24, 8),
    "baddbmm_": (lambda x, w, s: s.baddbmm_(x, w), (BX, BW, BS), 120, 40),
    "addbmm_": (lambda x, w, s: s.addbmm_(x, w), (BX, BW, S), 120, 8),
    "addmv_": (lambda x, w, s: s[:, 0].addmv_(x, w[:, 0]), (X, W, S), 6, 2),
    "vdot": (lambda x, w, s: torch.vdot(x[0], w[:, 0]), (X, W, S), 3, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_product_in_every_form(form):
    function, inputs, macs, adds = FORMS[form]
    work = trace(function, *inputs)
    assert (work.macs, sum(layer.ops.get("add", 0) for layer in work.layers)) == (macs, adds)
    assert work.coverage.unknown == ()
    real = function(*[x.clone() for x in inputs])
    assert work.layers[-1].outputs[0].shape == tuple(real.shape)


def test_a_product_of_integers():
    """int8 factors whose values are kept: 32·16·64 MACs, sums of int32."""
    a, b = torch.ones(32, 64, dtype=torch.int8), torch.ones(64, 16, dtype=torch.int8)
    for inputs in ((a, b), (a.to("meta"), b.to("meta"))):
        work = trace(lambda a, b: torch.ops.aten._int_mm(a, b), *inputs)
        assert (work.macs, work.layers[-1].outputs[0].dtype, work.coverage.unknown) == (32768, "int32", ())


def test_weight_norm_scales_rows():
    """Linear(4, 5): 20 squares, 15 additions and 5 roots for the norms, 5 quotients, 20 products."""
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 5))
    first = trace(layer, torch.empty(2, 4)).layers[0]
    assert (first.op, first.ops) == ("weight_norm", {"mul": 40, "add": 15, "sqrt": 5, "div": 5})
