"""Serves trained models over HTTP: a JSON API with OpenAPI, and SageMaker's contract.

python -m common.serve RUN                                   on this machine only, http://127.0.0.1:8000
python -m common.serve digits=RUN1 faces=RUN2 --port 8080    several models, by name
curl --data-binary @7.png -H 'Content-Type: image/png' http://127.0.0.1:8000/v1/models/digits/predict

GET /v1/models says what each model takes; the formats of requests and answers are in common/serve/formats.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from common import trust
from common.command import exits as command
from common.errors import UserError, nearest
from common.serve.settings import MEGABYTE, Address, Settings

PRECISIONS = ("auto", "fp32", "bf16", "int8", "int4")


def main(
    runs: Annotated[list[str], typer.Argument(metavar="[NAME=]RUN...", help="folders of runs, or of their models")],
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for the whole network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free one")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="processes that share the port")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 of image models; int8 or int4 weights")] = "auto",
    max_megabytes: Annotated[int, typer.Option(min=1, help="largest body of a request")] = 16,
    max_requests: Annotated[int, typer.Option(min=1, help="at work at once; more are answered 503")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for an answer")] = 60.0,
    token: Annotated[
        str, typer.Option(envvar="SERVE_TOKEN", help="that requests must bear; better in SERVE_TOKEN")
    ] = "",
    trust_export: trust.Flag = False,
) -> int:
    """Serves trained models over HTTP."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: no such number format.", nearest(precision, PRECISIONS))
    trust.allow(trust_export)
    from common.serve.server import start  # loads torch: a mistake is said before

    settings = Settings(max_body=max_megabytes * MEGABYTE, max_requests=max_requests, timeout=timeout, token=token)
    return start(runs, settings, Address(host, port, workers, precision))


if __name__ == "__main__":
    command.run(main, "python -m common.serve")
