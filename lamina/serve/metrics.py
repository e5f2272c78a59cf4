"""What the server counts, as Prometheus reads it."""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from lamina.serve.models import Models

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self, models: Models):
        self.models = models
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("lamina_requests", "Requests answered.", ["model", "status"], registry=registry)
        self.gone = Counter(
            "lamina_clients_gone", "Requests whose client went before the answer.", ["model"], registry=registry
        )
        self.seconds = Histogram(
            "lamina_request_seconds",
            "From a request's first byte to its answer.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.rows = Histogram("lamina_batch_rows", "Inputs run together.", ["model"], buckets=ROWS, registry=registry)
        self.runs = Histogram("lamina_run_seconds", "Runs of the network.", ["model"], buckets=SECONDS, registry=registry)
        # The library looks a label up under a lock and by text: every request would.
        self._counter = lru_cache(256)(lambda name, status: self.requests.labels(name, str(status)))
        self._timer = lru_cache(256)(lambda name: self.seconds.labels(name))
        waiting = Gauge("lamina_waiting_rows", "Inputs that wait to be run.", ["model"], registry=registry)
        for model in models.all.values():
            waiting.labels(model.name).set_function(lambda model=model: model.batcher.waiting if model.batcher else 0)

    def answered(self, name: str, status: int, seconds: float) -> None:
        """A request was, whether with an answer or a refusal."""
        self._counter(name, status).inc()
        self._timer(name).observe(seconds)

    def observe(self, name: str, rows: int, seconds: float) -> None:
        """A batch was run."""
        self.rows.labels(name).observe(rows)
        self.runs.labels(name).observe(seconds)

    async def show(self, request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4; charset=utf-8")
