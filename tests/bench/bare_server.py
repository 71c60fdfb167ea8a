"""What the server is compared with: the same model behind the shortest FastAPI handler."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Body, FastAPI, Request

from common import artifact, example
from common.machine import device
from common.serve.models import in_precision

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", type=Path)
parser.add_argument("--port", type=int)
parser.add_argument("--precision", default="auto")
parser.add_argument("--handler", choices=("async", "threads"))
options = parser.parse_args()

saved = artifact.load(options.run)
predictor = example.get(saved.example).load(saved)
device.set_threads()
model_predict, _ = in_precision(predictor, predictor.input.sample(), options.precision)
app = FastAPI()


@app.get("/ping")
def ping() -> dict[str, str]:
    return {}


def answer(body: bytes) -> dict[str, Any]:
    return model_predict([predictor.input.decode(body)])[0]


if options.handler == "async":

    @app.post("/invocations")
    async def invocations(request: Request) -> dict[str, Any]:
        return answer(await request.body())

else:

    @app.post("/invocations")
    def invocations_in_threads(body: bytes = Body(media_type="image/jpeg")) -> dict[str, Any]:
        return answer(body)


if __name__ == "__main__":
    uvicorn.run(app, port=options.port, log_level="warning", access_log=False)
