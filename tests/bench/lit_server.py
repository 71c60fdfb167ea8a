"""What the server is compared with: the same model behind LitServe with its batching (pip install litserve)."""

import argparse
import base64
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

from common import artifact, example
from common.machine import device
from common.serve.models import in_precision


class Classifier(litserve.LitAPI):
    """The model; LitServe decodes, batches and answers."""

    def __init__(self, run: Path, precision: str, processes: int, **batching: Any) -> None:
        super().__init__(api_path="/invocations", **batching)
        self.run, self.precision, self.processes = run, precision, processes

    def setup(self, device_name: str) -> None:
        saved = artifact.load(self.run)
        self.predictor = example.get(saved.example).load(saved)
        device.set_threads(self.processes)
        self.model, _ = in_precision(self.predictor, self.predictor.input.sample(), self.precision)

    def decode_request(self, request: Request) -> Any:  # LitServe looks at the type; it gives the parsed JSON
        return self.predictor.input.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: Any) -> Any:
        return self.model(x) if isinstance(x, list) else self.model([x])[0]

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--wait", type=float, default=0.01)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    batching = {"max_batch_size": options.batch, "batch_timeout": options.wait} if options.batch > 1 else {}
    api = Classifier(options.run, options.precision, options.processes, **batching)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=options.processes,
        timeout=60,
        healthcheck_path="/ping",
        fast_queue=True,
    )
    server.run(port=options.port, log_level="warning", generate_client_file=False, num_api_servers=1)
