"""Endpoints by their name, wherever they are: on this machine or on SageMaker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.command.exits import say
from common.errors import UserError
from common.sagemaker.account import prices
from common.sagemaker.account.dry_run import show
from common.sagemaker.account.session import session
from common.sagemaker.hosting import aws as hosting
from common.sagemaker.hosting import here as local_endpoints
from common.sagemaker.hosting import models, streams
from common.sagemaker.hosting.aws import Hosting
from common.sagemaker.training.job import Where, job_name
from common.sagemaker.transform.files import format_of

COMMAND = "python sagemaker/deploy.py"
HOUR = 3600.0


def create(source: str, name: str | None, settings: Hosting, where: Where) -> None:
    """Makes an endpoint for a model; on this machine it serves until Ctrl-C or until it is deleted.

    Raises:
        UserError: the name is taken, or something is missing.
    """
    _put(source, name, settings, where, replace=False)


def update(name: str, source: str, settings: Hosting, where: Where) -> None:
    """Puts a model behind an endpoint that is there; UserError if it is not."""
    _put(source, name, settings, where, replace=True)


def _put(source: str, name: str | None, settings: Hosting, where: Where, replace: bool) -> None:
    settings.check_together()
    aws = _on_aws(where)
    model = models.find(source, where.out)
    name = name or job_name(model.name)
    local_endpoints.check_name(name)
    if aws:
        _put_on_aws(name, model, settings, where, replace)
        return
    if where.dry_run:
        raise UserError("--dry-run shows requests to AWS, and fast-local sends none.", "Add --execution-mode aws.")
    with local_endpoints.Endpoint(name, model, where.out, replace) as endpoint:
        out = "" if where.out == "runs" else f" --out {where.out}"
        say(f"endpoint   {name}, at http://127.0.0.1:{endpoint.server.port}/invocations")
        say(f"ask it     {COMMAND} invoke {name} FILE{out}")
        say(f"end it     Ctrl-C, or: {COMMAND} delete {name}{out}")
        endpoint.serve()


def _put_on_aws(name: str, model: models.TrainedModel, settings: Hosting, where: Where, replace: bool) -> None:
    image = models.required_image(where.image)
    environment = model.trust()
    account = session(where)
    say(_cost(settings))
    uri = model.upload(account)
    deployment = hosting.plan(name, model, uri, image, account.role, settings, environment)
    if account.dry_run:
        for operation, request in deployment.requests(update=replace).items():
            show(operation, request)
        return
    (hosting.update if replace else hosting.create)(account.boto, deployment)
    say(f"endpoint   {name}")
    say(f"ask it     {COMMAND} invoke {name} FILE --execution-mode aws")
    say(f"end it     {COMMAND} delete {name} --execution-mode aws (it costs money until then)")


def invoke(name: str, body: bytes, content_type: str, accept: str, where: Where) -> bytes:
    """The answer of an endpoint; UserError with the server's reason where it refuses the input."""
    if _on_aws(where):
        return hosting.invoke(session(where).boto, name, body, content_type, accept)
    answer = local_endpoints.find(name, where.out).invoke(body, content_type, accept)
    if answer.status != 200:
        raise UserError(f"The endpoint {name} refused the request: {answer.reason}")
    return answer.body


def stream(name: str, body: bytes, content_type: str, accept: str, where: Where) -> Iterator[str]:
    """The text that a model writes on an endpoint, piece by piece; UserError as of `invoke`."""
    body = streams.request(body)
    if _on_aws(where):
        parts = hosting.stream(session(where).boto, name, body, content_type, accept)
    else:
        parts = local_endpoints.find(name, where.out).stream(body, content_type, accept)
    return streams.texts(parts)


def delete(name: str, where: Where) -> None:
    """Removes an endpoint with everything that was made for it; UserError if it is not there."""
    if _on_aws(where):
        removed = hosting.delete(session(where).boto, name)
    else:
        local_endpoints.delete(name, where.out)
        removed = [f"endpoint {name}"]
    for line in removed:
        say(f"deleted    {line}")


def request_body(file: Path | None, value: str | None, content_type: str | None) -> tuple[bytes, str]:
    """What is sent for a file or for a value that was typed, and its content type.

    Raises:
        UserError: both or none are given, or the file can't be read.
    """
    if (file is None) == (value is None):
        raise UserError("Give one input.", "Name a file, or give --value INPUT.")
    if value is not None:
        return value.encode(), content_type or "application/json"
    assert file is not None
    try:
        return file.read_bytes(), content_type or format_of([file.name]).content_type
    except OSError as error:
        raise UserError(f"Can't read {file}: {error.strerror}.") from error


def _on_aws(where: Where) -> bool:
    if where.mode == "local":
        raise UserError(
            "An endpoint has no local mode.", "fast-local runs the same server without Docker; aws hosts it."
        )
    return where.mode == "aws"


def _cost(settings: Hosting) -> str:
    """One line about what the endpoint costs while it stands."""
    if settings.serverless:
        return f"cost       by the request and its milliseconds; nothing while idle; see {prices.PRICE_PAGE}"
    hourly = prices.cost(settings.instance_type, settings.instances, HOUR)
    if hourly is None:
        return f"cost       no price known for {settings.instance_type}; see {prices.PRICE_PAGE}"
    most = prices.cost(settings.instance_type, settings.max_instances or settings.instances, HOUR) or hourly
    upto = f", up to ${most:.2f} when scaled" if most > hourly else ""
    return f"cost       about ${hourly:.2f} an hour until it is deleted{upto} (estimate: us-east-1, {prices.AS_OF})"
