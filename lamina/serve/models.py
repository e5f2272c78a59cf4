"""The networks that are served: loaded one after the other beside the running server, each with its own queue."""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch

from lamina.errors import InputError, LaminaError, first_line
from lamina.infer.export import describe
from lamina.infer.session import Session
from lamina.infer.translate import Translator, translator
from lamina.serve.batching import Batcher, Pace, choose
from lamina.serve.names import PLAIN, plain
from lamina.serve.protocol import BYTES, FREE, Array, Port, datatype
from lamina.serve.refusal import Refusal
from lamina.weights import ctranslate2

SENTENCE = "Ein Satz mit ein paar Wörtern."  # what a translation is timed on; longer ones are met later


class Network(Protocol):
    """What answers: arrays for `inputs` in, arrays for `outputs` out, of several requests at once; an error in place of the
    arrays where a request is wrong by itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    platform: str
    batches: bool  # whether rows of several requests can be run together

    def example(self, rows: int) -> list[Array]: ...
    def run(self, values: Sequence[Sequence[Array]]) -> Sequence[list[Array] | Exception]: ...


def _split(outputs: Sequence[Array], values: Sequence[Sequence[Array]]) -> Sequence[list[Array]]:
    """The outputs of each of `values`, whose rows were run together."""
    if len(values) == 1:
        return [list(outputs)]
    ends = np.cumsum([len(value[0]) for value in values])[:-1]
    return [list(parts) for parts in zip(*(np.split(output, ends) for output in outputs), strict=True)]


class Arrays:
    """A network of any kind, by `Session.run`."""

    def __init__(self, session: Session):
        self.session = session
        self.platform = f"lamina_{session.engine}"
        example = [x.numpy() for x in session.network.example]
        self._example = example
        self.batches = all(x.ndim for x in example)
        path = session.network.path
        rows: Sequence[Mapping[str, Any]] = describe(path)["inputs"] if path is not None else ()
        if rows:
            names = [row["name"] for row in rows]
            shapes = [[size if isinstance(size, int) and size > 0 else FREE for size in row["shape"]] for row in rows]
            self.batches = all(shape[:1] == [FREE] for shape in shapes)
        else:
            names = list(inspect.signature(session.module.forward).parameters)[: len(example)]
            shapes = [[FREE, *x.shape[1:]] for x in example]
        self.batches = self.batches and self._rows_are_apart()
        if not self.batches:
            shapes = [list(x.shape) for x in example]
        self.inputs = tuple(
            Port(name, datatype(x.dtype), tuple(shape)) for name, x, shape in zip(names, example, shapes, strict=True)
        )
        found = [y.numpy() for y in self.session.run(*example)]
        outputs = [row["name"] for row in describe(path)["outputs"]] if path is not None else _names(len(found))
        self.outputs = tuple(
            Port(name, datatype(y.dtype), (FREE, *y.shape[1:]) if self.batches else y.shape)
            for name, y in zip(outputs, found, strict=True)
        )

    def _rows_are_apart(self) -> bool:
        """Whether batches of two and of three are answered by as many rows."""
        return all(y.dim() and len(y) == rows for rows in (2, 3) for y in self.session.run(*self.example(rows)))

    def example(self, rows: int) -> list[Array]:
        return [np.concatenate([x] * rows) if self.batches else x for x in self._example]

    def run(self, values: Sequence[Sequence[Array]]) -> Sequence[list[Array] | Exception]:
        inputs = values[0] if len(values) == 1 else [np.concatenate(parts) for parts in zip(*values, strict=True)]
        if any(map(_has_nan, inputs)):
            return self._without_nan(values)
        return _split([y.numpy() for y in self.session.run(*inputs)], values)

    def _without_nan(self, values: Sequence[Sequence[Array]]) -> Sequence[list[Array] | Exception]:
        """The requests that hold NaN get their error, the others are run together. (Here and not where they are read: numpy
        lets other threads go on while it looks, and who reads would have to wait for them.)"""
        holding = [next((p.name for p, x in zip(self.inputs, value, strict=True) if _has_nan(x)), None) for value in values]
        good = [value for value, name in zip(values, holding, strict=True) if name is None]
        answers = iter(self.run(good) if good else [])
        return [next(answers) if name is None else InputError(f"input {name} holds NaN") for name in holding]


def _has_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and array.size > 0 and bool(np.isnan(array.min()))  # the least of numbers with a NaN is NaN


def _names(count: int) -> list[str]:
    return ["output", *(f"output_{i}" for i in range(1, count))]


class Sentences:
    """A Transformer that translates: texts in; texts and the mean log-probabilities of their tokens out."""

    inputs = (Port("sentences", BYTES, (FREE,)),)
    outputs = (Port("translations", BYTES, (FREE,)), Port("scores", "FP32", (FREE,)))
    platform = "lamina_translate"
    batches = True

    def __init__(self, translator: Translator, beams: int):
        self.translator, self.beams = translator, beams

    def example(self, rows: int) -> list[Array]:
        return [np.array([SENTENCE] * rows, object)]

    def run(self, values: Sequence[Sequence[Array]]) -> Sequence[list[Array]]:
        sentences: list[str] = np.concatenate([value[0] for value in values]).tolist()
        answers = self.translator.translate(sentences, self.beams)
        texts = np.array([row["target"] for row in answers], object)
        return _split([texts, np.array([row["score"] for row in answers], np.float32)], values)


@dataclass(frozen=True)
class Wanted:
    """A network to serve: `name` in addresses, `model` as everywhere in Lamina, and how it is run."""

    name: str
    model: str
    weights: str | None = None
    engine: str = "torch"
    threads: int | None = None
    device: str = "cpu"
    beams: int = 5

    def load(self) -> Network:
        """Raises `InputError` or `LaminaError`, one line."""
        if ctranslate2.is_model(self.model):
            return Sentences(translator(self.model, self.weights, self.device), self.beams)
        session = Session(self.model, self.weights, engine=self.engine, threads=self.threads, device=self.device, rewrite=None)
        if "tokenizer" in session.network.text:
            return Sentences(translator(self.model, self.weights, self.device), self.beams)
        return Arrays(session)


def wanted(models: Sequence[str], **options: Any) -> list[Wanted]:
    """What [NAME=]MODEL texts ask for; a name is by default the last part of the model's."""
    found: list[Wanted] = []
    for text in models:
        name, equals, model = text.partition("=")
        if not equals or not PLAIN.fullmatch(name):
            name, model = plain(text), text
        if name in [other.name for other in found]:
            raise InputError(f"two networks are called {name}: name one of them, as in {name}_2={model}")
        found.append(Wanted(name, model, **options))
    return found


State = Literal["loading", "ready", "failed"]


@dataclass
class Model:
    """A network on its way, or ready to answer."""

    wanted: Wanted
    state: State = "loading"
    error: LaminaError | None = None
    network: Network | None = None
    batcher: Batcher | None = None
    rows: int = 1  # that one request may have
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.wanted.name

    def loaded(self) -> tuple[Network, Batcher]:
        """Raises `Refusal` where the network is not ready."""
        if self.network is None or self.batcher is None:
            text = f"{self.name} cannot be served: {self.error}" if self.error else f"{self.name} is loading: try again"
            raise Refusal(503, text, retry=None if self.error else 1)
        return self.network, self.batcher

    async def infer(self, arrays: Sequence[Array], due: float) -> list[Array]:
        """The network's outputs for its inputs, run together with what else waits; `due` is `Batcher.submit`'s. Raises
        `Refusal`."""
        network, batcher = self.loaded()
        key = tuple(array.shape[1:] for array in arrays)
        rows = len(arrays[0]) if network.batches else 1
        try:
            return await batcher.submit(arrays, rows, due, key)
        except InputError as error:
            raise Refusal(400, str(error)) from error
        except Refusal:
            raise
        except Exception as error:  # of the network or its engine
            raise Refusal(500, f"{self.name} failed on this input: {first_line(error)}") from error


class Models:
    """The networks by name. `batch` rows are run together at most; `latency` is `Batcher`'s; `observe(name, rows, seconds)` is
    called for each batch."""

    def __init__(self, wanted: Sequence[Wanted], batch: int = 16, latency: float = 1.0):
        self.batch, self.latency = batch, latency
        self.all = {item.name: Model(item) for item in wanted}

    def __getitem__(self, name: str) -> Model:
        if name not in self.all:
            raise Refusal(404, f"no model {name!r}: there are {', '.join(self.all) or 'none'}")
        return self.all[name]

    @property
    def ready(self) -> bool:
        return all(model.state == "ready" for model in self.all.values())

    async def load(self, observe: Callable[[str, int, float], None] = lambda name, rows, seconds: None) -> None:
        """Load all, one after the other; an error is kept with its model."""
        for model in self.all.values():
            try:
                network, pace = await asyncio.to_thread(self._prepare, model.wanted)
            except Exception as error:
                text = f"loading {model.name} failed: {first_line(error)}"
                model.error = error if isinstance(error, LaminaError) else LaminaError(text)
                model.state = "failed"
            else:

                def seen(rows: int, seconds: float, name: str = model.name) -> None:
                    observe(name, rows, seconds)

                model.network, model.rows = network, self.batch if network.batches else 1
                model.batcher = Batcher(network.run, pace, self.latency, seen)
                model.state = "ready"
            model.ready.set()

    def _prepare(self, wanted: Wanted) -> tuple[Network, Pace]:
        network = wanted.load()

        known: set[int] = set()

        def time_rows(rows: int) -> float:
            value = network.example(rows)
            if rows not in known:
                network.run([value])  # the first run of a size prepares more than it computes
                known.add(rows)
            begin = time.perf_counter()
            network.run([value])
            return time.perf_counter() - begin

        with torch.inference_mode():
            # Half of the latency: a request may come when a batch has just begun.
            return network, choose(time_rows, self.batch if network.batches else 1, self.latency / 2)

    async def close(self) -> None:
        for model in self.all.values():
            if model.batcher is not None:
                await model.batcher.close()
