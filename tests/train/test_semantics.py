"""A run beside a trainer written here: gradients by autograd in float64, everything else in plain arithmetic from the papers.

The reference takes from the run's code its batches and its first weights, and no optimizer, schedule, average or loss.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lamina
from lamina.train import launch
from lamina.train.recipe import Recipe, names, read
from lamina.zoo import registry
from tests import training

CPU = torch.device("cpu")
Weights = dict[str, Tensor]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    training.write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    path = tmp_path / "tiny.toml"
    path.write_text(training.TINY)
    return path


# ---- the trainer ------------------------------------------------------------------------------------------------------


def sgd(o: Any, state: dict[str, Any], step: int, p: Tensor, g: Tensor, lr: float, decay: float) -> Tensor:
    """Sutskever et al. 2013 in torch's form: v = mu v + g; Nesterov's looks one step ahead, g + mu v."""
    g = g + decay * p
    v = state["v"] = o.momentum * state.get("v", 0.0) + g
    return p - lr * (g + o.momentum * v if o.nesterov else v)


def adam(o: Any, state: dict[str, Any], step: int, p: Tensor, g: Tensor, lr: float, decay: float) -> Tensor:
    """Kingma and Ba 2014, algorithm 1. The decay is in the gradient, as a penalty's; AdamW's (Loshchilov and Hutter 2017,
    algorithm 2) shrinks the weights beside the step."""
    if o.name == "adam":
        g = g + decay * p
    else:
        p = p - lr * decay * p
    one, two = o.betas
    m = state["m"] = one * state.get("m", 0.0) + (1 - one) * g
    v = state["v"] = two * state.get("v", 0.0) + (1 - two) * g * g
    return p - lr * (m / (1 - one ** (step + 1))) / ((v / (1 - two ** (step + 1))) ** 0.5 + o.eps)


def cross_entropy(scores: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean over the answers; a share `smoothing` of each goes to all classes alike (Szegedy et al. 2015, section 7)."""
    logs = scores - scores.exp().sum(1, keepdim=True).log()
    right = torch.zeros_like(logs)
    right[torch.arange(len(targets)), targets] = 1.0
    right = (1 - smoothing) * right + smoothing / logs.shape[1]
    return -(right * logs).sum(1).mean()


def cosine(step: int, steps: int, warmup: int) -> float:
    """A linear rise over `warmup` steps, and half a cosine to 0 in the last one (Loshchilov and Hutter 2016, equation 5)."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step + 1 - warmup) / (steps - warmup))) / 2


class Reference:
    """`Reference(recipe)` trains: `weights` are its last ones, `average` the averaged ones, `norms` each step's gradient's."""

    def __init__(self, recipe: Recipe):
        torch.manual_seed(recipe.seed)
        self.recipe, self.task = recipe, launch.task(recipe)
        self.module = registry.build(recipe.network, **recipe.changes).double()
        self.parameters = dict(self.module.named_parameters())
        self.average: Weights = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.norms: list[float] = []
        self.losses: list[float] = []
        states: dict[str, dict[str, Any]] = {k: {} for k in self.parameters}
        o, step = recipe.optimizer, 0
        steps = recipe.epochs * len(self.task.batches(0))
        for epoch in range(recipe.epochs):
            losses = []
            for index in self.task.batches(epoch):
                gradients, loss = self.gradients(index, epoch)
                losses += [loss] * len(index)
                constant = recipe.schedule.name == "constant"
                lr = o.lr * (1.0 if constant else cosine(step, steps, recipe.schedule.warmup))
                with torch.no_grad():
                    for name, p in self.parameters.items():
                        decay = o.weight_decay if o.decay_all or p.ndim > 1 else 0.0
                        rule: Callable[..., Tensor] = sgd if o.name == "sgd" else adam
                        p.copy_(rule(o, states[name], step, p, gradients[name], lr, decay))
                if recipe.ema:
                    keep = min(recipe.ema, (1 + step) / (10 + step))  # Tan and Le's code: the start is soon forgotten
                    for name, value in self.average.items():
                        self.average[name] = keep * value + (1 - keep) * self.parameters[name].detach()
                step += 1
            self.losses.append(sum(losses) / len(losses))

    def gradients(self, index: Tensor, epoch: int) -> tuple[Weights, float]:
        """Of the mean over the whole batch, and cut to the norm `clip` all together; and the loss without smoothing."""
        batch, loss = self.task.batch(index, epoch, CPU), self.recipe.loss
        scores = loss.scale * self.module(batch.inputs[0].double())
        total = cross_entropy(scores, batch.targets, loss.label_smoothing)
        found = dict(zip(self.parameters, torch.autograd.grad(total, list(self.parameters.values())), strict=True))
        self.norms.append(math.sqrt(sum(float(g.square().sum()) for g in found.values())))
        if self.recipe.clip:
            found = {k: g * min(1.0, self.recipe.clip / self.norms[-1]) for k, g in found.items()}
        return found, float(cross_entropy(scores.detach(), batch.targets))

    @torch.no_grad()
    def held_out(self, weights: Weights) -> tuple[float, float]:
        """Loss and percent right on the validation samples, with these weights."""
        batches = list(self.task.validation(CPU, 0, 1))
        targets = torch.cat([b.targets for b in batches])
        images = torch.cat([b.inputs[0] for b in batches]).double()
        scores = self.recipe.loss.scale * torch.func.functional_call(self.module, weights, (images,))
        right = (scores.argmax(1) == targets).double().mean()
        return float(cross_entropy(scores, targets)), 100 * float(right)


def compare(ours: Weights, theirs: Weights) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].double(), value.detach(), rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


# ---- optimizers -------------------------------------------------------------------------------------------------------

SGD = ("optimizer.name=sgd", "optimizer.lr=0.2")
ADAM = ("optimizer.eps=1e-3", "optimizer.betas=[0.7, 0.95]", "optimizer.lr=0.02")
RULES = {
    "sgd without momentum": (*SGD, "optimizer.momentum=0.0"),
    "momentum as it is by default, 0.9": SGD,
    "momentum of 0.6": (*SGD, "optimizer.momentum=0.6"),
    "nesterov": (*SGD, "optimizer.momentum=0.6", "optimizer.nesterov=true"),
    "sgd with decay": (*SGD, "optimizer.weight_decay=0.1"),
    "sgd with decay of all": (*SGD, "optimizer.weight_decay=0.1", "optimizer.decay_all=true"),
    "adam": ("optimizer.name=adam", *ADAM),
    "adam's betas by default, 0.9 and 0.999": ("optimizer.name=adam", "optimizer.eps=1e-3"),
    "adam with decay": ("optimizer.name=adam", "optimizer.weight_decay=0.5", *ADAM),
    "adamw with decay": ("optimizer.name=adamw", "optimizer.weight_decay=0.5", *ADAM),
    "adamw with decay of all": ("optimizer.weight_decay=0.5", "optimizer.decay_all=true", *ADAM),
    "label smoothing and a scale": (*SGD, "loss.label_smoothing=0.2", "loss.scale=0.5"),
}


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
def test_updates_are_the_papers(settings, recipe, tmp_path):
    plan = read(recipe, settings)
    expected = Reference(plan)
    launch.train(plan, tmp_path / "run")
    compare(training.weights(tmp_path / "run"), expected.parameters)
    rows = training.metrics(tmp_path / "run")
    assert [row["loss"] for row in rows] == pytest.approx(expected.losses, rel=1e-4)


def test_the_rules_differ():
    """What the table above rests on: no two of its rules give the same weights from the same gradients."""

    class Options:
        name, momentum, nesterov, betas, eps = "", 0.6, False, (0.7, 0.95), 1e-3

    ends = set()
    for name, nesterov, decay in [(n, v, d) for n in ("sgd", "adam", "adamw") for v in (False, True) for d in (0.0, 0.5)]:
        o, state, p = Options(), {}, torch.ones(1, dtype=torch.float64)
        o.name, o.nesterov = name, nesterov
        for step in range(5):
            p = (sgd if name == "sgd" else adam)(o, state, step, p, torch.cos(p * (step + 1)), 0.05, decay)
        ends.add(round(float(p), 6))
    assert len(ends) == 7  # Nesterov's is SGD's alone, and without decay Adam and AdamW are one: 4 + 2 + 1


# ---- clipping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_whole_batchs_gradient_is_clipped_before_the_step(accumulate, recipe, tmp_path):
    """By the norm over all parameters (Pascanu et al. 2012, algorithm 1), once a batch, whatever parts it goes through in;
    gradients within the norm stay as they are. The momentum keeps the clipped ones."""
    settings = (*SGD, "epochs=3", f"accumulate={accumulate}")
    norms = sorted(Reference(read(recipe, settings)).norms)
    plan = read(recipe, (*settings, f"clip={norms[len(norms) // 2]}"))
    expected = Reference(plan)
    assert plan.clip and sum(n > 1.02 * plan.clip for n in expected.norms) > 1 < sum(
        n < 0.98 * plan.clip for n in expected.norms
    )
    launch.train(plan, tmp_path / "run")
    compare(training.weights(tmp_path / "run"), expected.parameters)


# ---- averaged weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_averaged_weights_are_validated_and_exported(decay, recipe, tmp_path):
    """The recurrence over every step, on the weights behind it: what is exported, and what the validation's figures and the
    choice of the best epoch rest on. The training goes on with its own weights."""
    settings = (*ADAM, "epochs=4", "validation=20", "schedule.name=constant", "schedule.warmup=0")
    plan = read(recipe, (*settings, f"ema={decay}"))
    expected = Reference(plan)
    launch.train(plan, tmp_path / "run")
    compare(training.weights(tmp_path / "run"), expected.average)
    last = training.metrics(tmp_path / "run")[-1]
    loss, right = expected.held_out(expected.average)
    own, _ = expected.held_out({k: p.detach() for k, p in expected.parameters.items()})
    assert abs(own - loss) > 0.01 * loss, "the two kinds of weights have to differ"
    assert last["validation_loss"] == pytest.approx(loss, rel=1e-4)
    assert last["validation_top1"] == pytest.approx(right, abs=1e-6)
    # Without an average the same run exports, and validates, the training's own.
    launch.train(read(recipe, settings), tmp_path / "plain")
    compare(training.weights(tmp_path / "plain"), expected.parameters)
    assert training.metrics(tmp_path / "plain")[-1]["validation_loss"] == pytest.approx(own, rel=1e-4)


# ---- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_are_in_the_recipes_precision(precision, dtype, recipe, tmp_path):
    """In training and in validation; weights stay in float32."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            seen[module.training].add(output.dtype)

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        launch.train(read(recipe, (f"precision={precision}", "validation=10", "epochs=1")), tmp_path / "run")
    finally:
        handle.remove()
    assert seen[True] == {dtype}
    assert dtype in seen[False]
    assert {v.dtype for v in training.weights(tmp_path / "run").values()} == {torch.float32}


# ---- what goes in and comes out ---------------------------------------------------------------------------------------


def test_a_scale_of_the_scores_comes_out_with_the_weights(recipe, tmp_path):
    """A network that is trained on half its scores answers with the softmax of half its scores."""
    from lamina.infer.session import Session

    launch.train(read(recipe, (*SGD, "loss.scale=0.5", "epochs=3")), tmp_path / "run")
    file = tmp_path / "run" / "weights.safetensors"
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    net = Session("vit_mnist", file)
    scores = net.module((torch.from_numpy(pixels)[None, None] / 255 - 0.1307) / 0.3081)[0].detach()
    found = {
        row["index"]: row["probability"] for row in lamina.run("vit_mnist", tmp_path / "x.png", file, top=10)[0]["predictions"]
    }
    assert [found[i] for i in range(10)] == pytest.approx((100 * (scores / 2).softmax(0)).tolist(), abs=1e-3)
    assert (scores / 2).softmax(0).max() < scores.softmax(0).max() - 1e-3


def test_lenet5_is_trained_on_a_quarter_of_its_distances():
    recipe = read("lenet5_mnist")
    assert recipe.loss.scale == 0.25
    (mean,), (std,) = recipe.image["mean"], recipe.image["std"]
    assert (0 - mean) / std == pytest.approx(-0.1) and (1 - mean) / std == pytest.approx(1.175)  # LeCun et al., section II.B


@pytest.mark.parametrize("name", [n for n in names() if read(n).data == "cifar10"])
def test_cifar_colours(name, tmp_path, monkeypatch):
    """The mean and the deviation of CIFAR-10's training pixels, red, green, blue: 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7
    (Zagoruyko and Komodakis 2016, code). A red image is red in the first channel."""
    recipe = read(name)
    means, deviations = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    assert [255 * m for m in recipe.image["mean"]] == pytest.approx(means, abs=0.1)
    assert [255 * s for s in recipe.image["std"]] == pytest.approx(deviations, abs=0.1)
    training.write_cifar10(tmp_path)
    for path in (tmp_path / "cifar10").glob("*.bin"):  # a label byte, then 1,024 bytes each of red, green and blue
        records = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073).copy()
        records[:, 1:1025], records[:, 1025:2049], records[:, 2049:] = 255, 100, 0
        path.write_bytes(records.tobytes())
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path))
    task = launch.task(read(name, ("validation=5",)))
    image = next(task.validation(CPU, 0, 1)).inputs[0]
    expected = [(v - m) / s for v, m, s in zip((255, 100, 0), means, deviations, strict=True)]
    size = recipe.image["size"]
    middle = image[:, :, size // 2, size // 2]
    assert middle[0].tolist() == pytest.approx(expected, abs=0.01) and (middle == middle[0]).all()


def test_metrics_are_those_of_the_epoch(recipe, tmp_path):
    """metrics.jsonl has a line an epoch: the learning rate of its last step, by the cosine's formula."""
    plan = read(recipe, ("epochs=3", "optimizer.lr=0.02"))
    launch.train(plan, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert [row["epoch"] for row in rows] == [1, 2, 3] and steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    rates = [0.02 * cosine(step - 1, steps[-1], plan.schedule.warmup) for step in steps]
    assert [row["lr"] for row in rows] == pytest.approx(rates, abs=1e-9)
