"""Puts a trained model behind an endpoint: on this machine without an account, or on Amazon SageMaker.

python sagemaker/deploy.py create runs/vision.train/LATEST --name digits            serves until Ctrl-C
python sagemaker/deploy.py invoke digits photo.png                                  from another terminal
python sagemaker/deploy.py invoke texts --stream --value '{"prompt": "To be"}'       a text as it is written
python sagemaker/deploy.py update digits runs/vision.train/BETTER
python sagemaker/deploy.py delete digits
python sagemaker/deploy.py create JOB --execution-mode aws --image URI --max-instances 4
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import trust
from common.command import arguments
from common.sagemaker.hosting import main as endpoints
from common.sagemaker.hosting.aws import Hosting
from common.sagemaker.training.job import Where

Name = Annotated[str, typer.Argument(metavar="NAME", help="of the endpoint")]
Source = Annotated[
    str, typer.Argument(metavar="MODEL", help="a run's folder, model.tar.gz, a job, or s3://…/model.tar.gz")
]


@arguments.takes(hosting=Hosting, where=Where)
def create(
    model: Source,
    hosting: Hosting,
    where: Where,
    name: Annotated[str | None, typer.Option(help="of the endpoint")] = None,
    trust_export: trust.Flag = False,
) -> None:
    """Makes an endpoint; on this machine it serves until Ctrl-C."""
    trust.allow(trust_export)
    endpoints.create(model, name, hosting, where)


@arguments.takes(hosting=Hosting, where=Where)
def update(name: Name, model: Source, hosting: Hosting, where: Where, trust_export: trust.Flag = False) -> None:
    """Puts another model or other instances behind an endpoint, which serves meanwhile."""
    trust.allow(trust_export)
    endpoints.update(name, model, hosting, where)


@arguments.takes(where=Where)
def invoke(
    name: Name,
    where: Where,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="what to predict")] = None,
    value: Annotated[str | None, typer.Option(help="the input itself, as JSON")] = None,
    content_type: Annotated[str | None, typer.Option(help="of the input (default: by the file's suffix)")] = None,
    accept: Annotated[str, typer.Option(help="content type of the answer")] = "application/json",
    stream: Annotated[bool, typer.Option("--stream", help="print a text as it is written")] = False,
) -> None:
    """Asks an endpoint for a prediction and prints the answer."""
    body, kind = endpoints.request_body(file, value, content_type)
    if stream:
        for piece in endpoints.stream(name, body, kind, accept, where):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return
    sys.stdout.buffer.write(endpoints.invoke(name, body, kind, accept, where).rstrip(b"\n") + b"\n")


@arguments.takes(where=Where)
def delete(name: Name, where: Where) -> None:
    """Removes an endpoint and everything that was made with it."""
    endpoints.delete(name, where)


if __name__ == "__main__":
    arguments.run_script("python sagemaker/deploy.py", create, update, invoke, delete)
