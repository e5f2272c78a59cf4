"""What `serving.py --peers` runs with .serving/bin/python: LitServe with the same network, run by the same `lamina.Session`.

.serving/bin/python benchmarks/serving_litserve.py MODEL WEIGHTS PORT BATCH
"""

import base64
import sys

import litserve
import numpy as np

from lamina.infer.session import Session


class Api(litserve.LitAPI):
    def __init__(self, model: str, weights: str | None, **options):
        super().__init__(**options)
        self.model, self.weights = model, weights

    def setup(self, device):
        self.session = Session(self.model, self.weights, threads=1)
        self.shape = tuple(self.session.network.example[0].shape[1:])

    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["x"]), np.float32).reshape(self.shape)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        if x.ndim == len(self.shape):  # without batching it comes as it was decoded
            return self.session.run(x[None])[0].numpy()[0]
        return self.session.run(x)[0].numpy()

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"output": base64.b64encode(output.tobytes()).decode()}


def main() -> None:
    model, weights, port, batch = sys.argv[1:]
    batching = {"max_batch_size": int(batch), "batch_timeout": 0.005} if int(batch) > 1 else {}
    server = litserve.LitServer(Api(model, weights or None, **batching), accelerator="cpu", timeout=30)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
