"""The loop: plain torch, on one process or many, from a recipe to weights.

Everything that a step does is decided by the recipe, the step's number and the generators' states: a run that is resumed goes
on as if it had never stopped, to the bit, and any number of processes draws the same batches.
"""

import contextlib
import json
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lamina import files
from lamina.errors import LaminaError
from lamina.progress import Meter
from lamina.train import checkpoint, optim, provenance
from lamina.train.recipe import Recipe, difference, dump, loads
from lamina.train.tasks import IGNORED, Batch, Task, loss
from lamina.train.world import World, full, placed_like, sharded

METRICS, CONFIG, WEIGHTS, CHECKPOINTS = "metrics.jsonl", "config.toml", "weights.safetensors", "checkpoints"


class Interrupted(LaminaError):
    """A signal asked the run to stop; its checkpoint is written (the command exits with 130)."""


class Run:
    """A recipe at work in the folder `out`. `Run(...).train()` returns the last metrics."""

    def __init__(self, recipe: Recipe, module: nn.Module, task: Task, out: Path, world: World, shard: bool = False):
        self.recipe, self.task, self.out, self.world = recipe, task, out, world
        self.checkpoints = out / CHECKPOINTS
        module = module.to(world.device)
        if recipe.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sharded = shard and world.ranks > 1
        if self.sharded:
            module = sharded(module, world)
        self.module = module
        self.model: nn.Module = module  # what is called: the same parameters
        if recipe.compile:
            self.model = torch.compile(self.model)  # type: ignore[assignment]
        if world.ranks > 1 and not self.sharded:
            self.model = nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = optim.optimizer(module, recipe.optimizer)
        self.average = optim.Average(module, recipe.ema) if recipe.ema else None
        batches = task.batches(0)
        self.steps_an_epoch, self.samples = len(batches), sum(map(len, batches))
        self.steps = min(recipe.epochs * self.steps_an_epoch, recipe.steps or math.inf)
        self.step, self.best, self.rows = 0, None, []  # type: ignore[var-annotated]
        self.sums, self.seconds = [0.0, 0.0, 0.0], 0.0  # of the current epoch: loss, right answers, answers
        self.asked = False  # to stop
        torch.manual_seed(recipe.seed + world.rank)

    # ---- the work -----------------------------------------------------------------------------------------------

    def train(self, log: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
        """From where the run is to its end; `log` gets each row of metrics. Returns the last one of an epoch."""
        with (
            warnings.catch_warnings(),
            self._signals(),
            Meter(int(self.steps), self.recipe.network, self.step, quiet=self.world.rank > 0) as meter,
        ):
            # DistributedDataParallel's, of a filter with one input channel: no reader can do anything about it.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            while self.step < self.steps:
                self._epoch(meter, log)
        step = self.step
        if self.recipe.select == "best" and self.best:
            step = self.best["step"]
            with self.world.together():
                if self.world.rank == 0 and not checkpoint.whole(self._named(step)):
                    raise LaminaError(f"{self._named(step).path}, the best checkpoint, is damaged or gone")
            self._load(self._named(step))
        self.export(step)
        return self.rows[-1]

    def _epoch(self, meter: Meter, log: Callable[[dict[str, Any]], None]) -> None:
        epoch, first = divmod(self.step, self.steps_an_epoch)
        begin = time.monotonic() - self.seconds
        batches = self.task.batches(epoch)[first : first + int(self.steps) - self.step]
        stream = self.stream(batches, epoch)
        self.model.train()
        for index in batches:
            values = self._step(index, stream)
            self.sums = [a + b for a, b in zip(self.sums, values, strict=True)]
            self.step += 1
            self.seconds = time.monotonic() - begin
            mean, share, rate = (
                values[0] / (values[2] or 1),
                100 * self.sums[1] / (self.sums[2] or 1),
                self.sums[2] / self.seconds,
            )
            meter.advance(f"epoch {epoch + 1}, loss {mean:.3f}, {self.task.measure} {share:.1f} %, {rate:,.0f}/s")
            ended = self.step == (epoch + 1) * self.steps_an_epoch or self.step >= self.steps
            if not ended:
                if self._must_stop():
                    self.save()
                    self._stop(f"stopped after step {self.step}")
                if self.recipe.save_steps and self.step % self.recipe.save_steps == 0:
                    self.save()
        total, right, answers = self.world.sum(self.sums)
        row: dict[str, Any] = {"step": self.step, "epoch": epoch + 1, "lr": self.lr(self.step - 1)}
        row |= {"loss": total / answers, self.task.measure: 100 * right / answers} | self.evaluate()
        row |= {"seconds": round(time.monotonic() - begin, 2), "per_second": round(answers / self.seconds, 1)}
        self.rows.append(row)
        self.sums, self.seconds = [0.0, 0.0, 0.0], 0.0
        if self.recipe.validation and (self.best is None or row["validation_loss"] < self.best["validation_loss"]):
            self.best = {"step": self.step, "validation_loss": row["validation_loss"]}
        self.save()
        self._write_metrics()
        if self.world.rank == 0:
            log(row)
        if self.step < self.steps and self._must_stop():
            self._stop(f"stopped after epoch {epoch + 1}")

    def lr(self, step: int) -> float:
        recipe = self.recipe
        return recipe.optimizer.lr * optim.factor(step, recipe.schedule, int(self.steps), self.steps_an_epoch)

    def stream(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """What this process takes of each part of these batches."""
        # A process without a sample still takes part in the exchange of gradients, with a weight of nothing.
        parts = (mine if len(mine) else index[:1] for index in batches for mine in self._parts(index))
        return self.task.stream(parts, epoch, self.world.device)

    def _parts(self, index: Tensor) -> list[Tensor]:
        """This process's share of each of the parts in which a batch goes through the network."""
        parts = index.tensor_split(min(self.recipe.accumulate, len(index))) if self.recipe.accumulate > 1 else (index,)
        return [self.world.share(part) for part in parts]

    def _step(self, index: Tensor, stream: Iterator[Batch]) -> list[float]:
        """One update from the batch `index`; this process's sums of loss, right answers and answers."""
        recipe, world = self.recipe, self.world
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(self.step) * group["factor"]
        self.optimizer.zero_grad()
        answers = self.task.count(index)
        sums = [0.0, 0.0, 0.0]
        parts = self._parts(index)
        for number, (mine, batch) in enumerate(zip(parts, stream, strict=False)):
            with self._exchange(number == len(parts) - 1):
                with self._autocast():
                    total, plain, right = loss(self.model, batch, recipe)
                # The processes' gradients are averaged; the sum over all answers is what is divided by their number.
                total.backward(torch.full_like(total, world.ranks / answers if len(mine) else 0.0))
            if len(mine):
                sums = [sums[0] + plain.item(), sums[1] + right.item(), sums[2] + self.task.count(mine)]
        total = self.world.sum(sums[:1])[0]
        if not math.isfinite(total):
            self._diverged(f"the loss is {total}", self.step)
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        return sums

    def _diverged(self, what: str, step: int) -> None:
        """Stop, all processes together, naming the step, the learning rate and the checkpoint that is left."""
        with self.world.together():
            last = checkpoint.newest(self.checkpoints)
            left = f"{last.path} is left" if last else "there is no checkpoint before it"
            raise LaminaError(
                f"{what} in step {step} (epoch {step // self.steps_an_epoch + 1}), at learning rate {self.lr(step):.3g}: a "
                f"lower one, a longer warm-up or clipping may help; {left}"
            )

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged with a batch's last part only."""
        if isinstance(self.model, nn.parallel.DistributedDataParallel) and not last:
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.recipe.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and measure on the validation split, with the averaged weights where there are some."""
        if not self.recipe.validation:
            return {}
        sums = [0.0, 0.0, 0.0]
        if self.world.ranks > 1:  # each process has its own running statistics: those of the first are the ones that are kept
            for buffer in self.module.buffers():
                dist.broadcast(buffer, 0)
        with self.average.applied() if self.average else contextlib.nullcontext():
            self.module.eval()
            for batch in self._padded(self.task.validation(self.world.device, self.world.rank, self.world.ranks)):
                with self._autocast():
                    _, plain, right = loss(self.module, batch[0], self.recipe)
                if batch[1]:
                    answers = int((batch[0].targets != IGNORED).sum())
                    sums = [sums[0] + plain.item(), sums[1] + right.item(), sums[2] + answers]
            if self.sharded:  # else the outermost weights would stay whole, and what is put back be lost on them
                self.module.reshard()  # type: ignore[operator]
        totals = self.world.sum(sums)
        return {"validation_loss": totals[0] / totals[2], f"validation_{self.task.measure}": 100 * totals[1] / totals[2]}

    def _padded(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, bool]]:
        """The batches; where the weights are sharded over the processes, as many calls in each (the last one's again)."""
        if not self.sharded:
            yield from ((batch, True) for batch in batches)
            return
        own = list(batches)
        most = max(self.world.gather(len(own)))
        spare = own[-1] if own else self.task.batch(torch.tensor([0]), 0, self.world.device)
        yield from ((own[i], True) if i < len(own) else (spare, False) for i in range(most))

    # ---- saving and going on -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Model, averaged weights and optimizer by name, whole on every process."""
        state = {f"module.{k}": full(v) for k, v in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state[f"optimizer.{key}.{name}"] = full(value)
        if self.average is not None:
            state |= {f"average.{k}": full(v) for k, v in self.average.values.items()}
        return state

    def save(self) -> None:
        """Write a checkpoint, and remove those that need not stay."""
        state = self.state()
        if not all(bool(state[f"module.{name}"].isfinite().all()) for name, _ in self.module.named_parameters()):
            self._diverged("the weights are no longer finite", self.step - 1)
        states = self.world.gather(checkpoint.random_states(self.world.device))
        sums = self.world.sum(self.sums)
        if self.world.rank == 0:
            files = {"state.safetensors": checkpoint.pack(state)}
            files |= {f"random-{rank}.safetensors": checkpoint.pack(s) for rank, s in enumerate(states)}
            progress = {"step": self.step, "best": self.best, "rows": self.rows, "sums": sums, "seconds": self.seconds}
            progress |= {"ranks": self.world.ranks, "samples": self.samples}
            progress |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "recipe": dump(self.recipe)}
            files["progress.json"] = json.dumps(progress, indent=1).encode()
        else:
            files = {}
        with self.world.together():
            if self.world.rank == 0:
                checkpoint.save(self.checkpoints, self.step, files)
                self._retain()

    def resume(self) -> bool:
        """Go on from the newest complete checkpoint; whether there was one."""
        found = checkpoint.newest(self.checkpoints) if self.world.rank == 0 else None
        step = self.world.gather(found.step if found else None)[0]
        if step is None:
            return False
        self._restore(self._named(step))
        with self.world.together():
            if self.world.rank == 0:
                self._retain()
        return True

    def _retain(self) -> None:
        checkpoint.retain(self.checkpoints, self.recipe.keep, self.best["step"] if self.best else None, self.step)

    def _named(self, step: int) -> checkpoint.Checkpoint:
        return checkpoint.Checkpoint(self.checkpoints / f"step-{step:08d}", step)

    def _load(self, point: checkpoint.Checkpoint) -> None:
        """The checkpoint's model, averaged weights and optimizer."""
        state = point.tensors("state.safetensors")
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                value.copy_(placed_like(state.pop(f"module.{name}"), value))
            if self.average is not None:
                for name, value in self.average.values.items():
                    value.copy_(placed_like(state.pop(f"average.{name}"), value))
        parameters = dict(self.module.named_parameters())
        for full_name, value in state.items():
            _, key, name = full_name.split(".", 2)  # optimizer.KEY.NAME
            parameter = parameters[name]
            own = placed_like(value, parameter) if value.shape == parameter.shape else value.to(parameter.device)
            self.optimizer.state[parameter][key] = own.clone()

    def _restore(self, point: checkpoint.Checkpoint) -> None:
        progress = point.progress()
        if found := difference(loads(progress["recipe"], str(point.path)), self.recipe):
            raise LaminaError(f"{point.path} was made by another recipe ({found}): give another --out, or its {CONFIG}")
        if progress.get("samples", self.samples) != self.samples:
            raise LaminaError(
                f"{point.path} was made with {progress['samples']:,} training samples, and there are {self.samples:,} now: "
                "give it the data it began with"
            )
        self._load(point)
        self.step, self.best, self.rows = progress["step"], progress["best"], progress["rows"]
        self.seconds = progress["seconds"]
        self.sums = progress["sums"] if self.world.rank == 0 else [0.0, 0.0, 0.0]
        if progress["ranks"] == self.world.ranks:
            states = point.tensors(f"random-{self.world.rank}.safetensors")
            checkpoint.set_random_states(states, self.world.device)
        else:  # the draws of dropout differ, the batches do not
            torch.manual_seed(self.recipe.seed + self.step * 1009 + self.world.rank)
        self._write_metrics()

    def _write_metrics(self) -> None:
        self._write(METRICS, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def _write(self, name: str, content: bytes) -> None:
        with self.world.together():
            if self.world.rank == 0:
                files.write(self.out / name, content)

    def export(self, step: int) -> None:
        """The network's weights (averaged, if the recipe has it) as one safetensors file that `lamina run` takes."""
        from safetensors.torch import save

        state = self.state()
        weights = {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}
        weights |= {k.removeprefix("average."): v for k, v in state.items() if k.startswith("average.")}
        recipe = self.recipe
        metadata = {"network": recipe.network, "data": recipe.data, "recipe": dump(recipe), "seed": str(recipe.seed)}
        metadata |= {"step": str(step), "epochs": str(math.ceil(step / self.steps_an_epoch)), "torch": torch.__version__}
        metadata |= {
            "changes": json.dumps(recipe.changes),
            "image": json.dumps(recipe.image),
            "score_scale": str(recipe.loss.scale),
        }
        metadata |= getattr(self.task, "metadata", {})
        if made := provenance.read(self.out):
            metadata["provenance"] = json.dumps(made)
        self._write(WEIGHTS, save({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, metadata))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT (Ctrl-C) and SIGTERM ask to stop after the current step; a second one stops at once."""

        def ask(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever calls handles them
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, when: str) -> None:
        with self.world.together():
            raise Interrupted(f"{when}, which is saved: continue with --resume")

    def _must_stop(self) -> bool:
        """Whether any process was asked to: all of them stop after the same step."""
        return bool(self.world.sum([float(self.asked)])[0])
