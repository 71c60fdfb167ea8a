"""Endpoints on SageMaker: the requests that make, change and remove one, sent in order and undone on failure.

By boto3 alone: what the resource classes of SDK 3 add is no help here, and they can't be tried without an account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from common.command.exits import say
from common.config import option
from common.errors import UserError, nearest
from common.sagemaker.account import watch
from common.sagemaker.account.session import tags as tags_of
from common.sagemaker.hosting.models import TrainedModel, create_model, explain_refusals
from common.sagemaker.training.job import job_name

VARIANT = "AllTraffic"  # the one production variant of an endpoint
POLL = 15.0  # seconds between two looks at an endpoint that changes
DIMENSION = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
_GROUP = "Endpoint"


@dataclass(frozen=True)
class Hosting:
    """On what an endpoint runs."""

    instance_type: str = option("ml.m5.large", "machine that serves", group=_GROUP)
    instances: int = option(1, "how many; with --max-instances the fewest", group=_GROUP, at_least=1, at_most=100)
    max_instances: int | None = option(
        None, "scale up to this many", group=_GROUP, unset="no scaling", at_least=1, at_most=100
    )
    invocations: int = option(
        1000, "requests a minute for each instance, which scaling aims at", group=_GROUP, at_least=1
    )
    serverless: bool = option(False, "no instances: pay by request, starts cold", group=_GROUP)
    memory: int = option(
        4096, "MB of a serverless endpoint, in steps of 1024", group=_GROUP, at_least=1024, at_most=6144
    )
    concurrency: int = option(5, "requests at once on a serverless endpoint", group=_GROUP, at_least=1, at_most=200)

    def check_together(self) -> None:
        """Raises UserError for settings that contradict each other."""
        if self.serverless and self.max_instances is not None:
            raise UserError("--serverless scales by itself; it has no --max-instances.", "Drop one of them.")
        if self.max_instances is not None and self.max_instances < self.instances:
            raise UserError(f"--max-instances {self.max_instances} is below --instances {self.instances}.")
        if self.memory % 1024:
            raise UserError(f"--memory {self.memory} is no multiple of 1024.", "Choose 1024, 2048, 3072, … 6144.")


@dataclass(frozen=True)
class Deployment:
    """Every request that puts a model behind an endpoint.

    Attributes:
        endpoint: its name.
        model, config: CreateModel and CreateEndpointConfig; their names are new each time.
        scaling: RegisterScalableTarget and PutScalingPolicy; empty without scaling.
    """

    endpoint: str
    model: dict[str, Any]
    config: dict[str, Any]
    scaling: dict[str, dict[str, Any]]

    @property
    def create(self) -> dict[str, Any]:
        """CreateEndpoint."""
        config = self.config["EndpointConfigName"]
        return {"EndpointName": self.endpoint, "EndpointConfigName": config, "Tags": self.model["Tags"]}

    def update(self, scaled: bool) -> dict[str, Any]:
        """UpdateEndpoint; where autoscaling runs, the number of instances that it chose is kept."""
        request = {"EndpointName": self.endpoint, "EndpointConfigName": self.config["EndpointConfigName"]}
        return {**request, "RetainAllVariantProperties": True} if scaled else request

    def requests(self, update: bool = False) -> dict[str, dict[str, Any]]:
        """All of them by operation, in the order in which they are sent."""
        last = {"UpdateEndpoint": self.update(scaled=False)} if update else {"CreateEndpoint": self.create}
        return {"CreateModel": self.model, "CreateEndpointConfig": self.config, **last, **self.scaling}


def plan(
    endpoint: str,
    model: TrainedModel,
    uri: str,
    image: str,
    role: str,
    hosting: Hosting,
    environment: dict[str, str] | None = None,
) -> Deployment:
    """The requests for a model on an endpoint.

    Args:
        endpoint: name of the endpoint, 63 letters, digits and dashes at the most.
        uri: the model.tar.gz in S3.
        image: that holds the server, built from sagemaker/Dockerfile.
        role: ARN of the role that the endpoint runs under.
        environment: of its container, as `TrainedModel.trust` says it.
    """
    unique, tags = job_name(endpoint), tags_of(model.example)
    variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": unique}
    if hosting.serverless:
        variant["ServerlessConfig"] = {"MemorySizeInMB": hosting.memory, "MaxConcurrency": hosting.concurrency}
    else:
        variant |= {"InstanceType": hosting.instance_type, "InitialInstanceCount": hosting.instances}
    config = {"EndpointConfigName": unique, "ProductionVariants": [variant], "Tags": tags}
    made = create_model(unique, image, uri, role, tags, environment)
    return Deployment(endpoint, made, config, _scaling(endpoint, hosting))


def _scaling(endpoint: str, hosting: Hosting) -> dict[str, dict[str, Any]]:
    if hosting.max_instances is None:
        return {}
    target = {"ResourceId": _resource(endpoint), **DIMENSION}
    tracking = {
        "TargetValue": float(hosting.invocations),
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 300,  # seconds: quick to help, slow to let go
    }
    limits = {"MinCapacity": hosting.instances, "MaxCapacity": hosting.max_instances}
    policy = {"PolicyName": f"{endpoint}-invocations", "PolicyType": "TargetTrackingScaling"}
    return {
        "RegisterScalableTarget": {**target, **limits},
        "PutScalingPolicy": {**policy, **target, "TargetTrackingScalingPolicyConfiguration": tracking},
    }


def create(boto: Any, deployment: Deployment) -> None:
    """Makes the endpoint and waits until it serves; what was made is removed again if anything fails.

    Args:
        boto: a boto3.Session.

    Raises:
        UserError: the name is taken, a request was refused, or the endpoint failed; with SageMaker's reason.
    """
    sagemaker = boto.client("sagemaker")
    if deployment.endpoint in _endpoints(sagemaker, deployment.endpoint):
        raise UserError(
            f"There is an endpoint {deployment.endpoint} already.", "Use update, delete it first, or choose --name."
        )
    with explain_refusals(), ExitStack() as undo:
        _make_parts(sagemaker, deployment, undo)
        sagemaker.create_endpoint(**deployment.create)
        undo.callback(_quietly, sagemaker.delete_endpoint, EndpointName=deployment.endpoint)
        state = _wait(sagemaker, deployment.endpoint, "Creating", undo)
        if state["EndpointStatus"] != "InService":
            raise UserError(f"The endpoint failed: {state.get('FailureReason', state['EndpointStatus'])}")
        if deployment.scaling:
            target = {"ResourceId": _resource(deployment.endpoint), **DIMENSION}
            undo.callback(_quietly, boto.client("application-autoscaling").deregister_scalable_target, **target)
            _scale(boto, deployment)
        undo.pop_all()


def update(boto: Any, deployment: Deployment) -> None:
    """Puts another model or other instances behind an endpoint that goes on serving meanwhile.

    Raises:
        UserError: there is no such endpoint, or the change failed; SageMaker has gone back to what was before.
    """
    sagemaker = boto.client("sagemaker")
    before = describe(sagemaker, deployment.endpoint)
    with explain_refusals(), ExitStack() as undo:
        _make_parts(sagemaker, deployment, undo)
        sagemaker.update_endpoint(**deployment.update(scaled=bool(_targets(boto, deployment.endpoint))))
        state = _wait(sagemaker, deployment.endpoint, "Updating", undo)
        if state["EndpointConfigName"] != deployment.config["EndpointConfigName"]:
            reason = state.get("FailureReason", state["EndpointStatus"])
            raise UserError(f"The update failed, and the endpoint serves what it did before: {reason}")
        undo.pop_all()
    _delete_config(sagemaker, before["EndpointConfigName"])
    if deployment.scaling:
        _scale(boto, deployment)


def delete(boto: Any, endpoint: str) -> list[str]:
    """Removes an endpoint with its scaling target, its config and its models.

    Returns:
        what was removed, one line each.
    """
    sagemaker = boto.client("sagemaker")
    config = describe(sagemaker, endpoint)["EndpointConfigName"]
    removed = []
    for target in _targets(boto, endpoint):  # before the endpoint, which it would otherwise outlive
        boto.client("application-autoscaling").deregister_scalable_target(ResourceId=target, **DIMENSION)
        removed.append(f"scaling target {target}")
    sagemaker.delete_endpoint(EndpointName=endpoint)
    return [*removed, f"endpoint {endpoint}", *_delete_config(sagemaker, config)]


def invoke(boto: Any, endpoint: str, body: bytes, content_type: str, accept: str) -> bytes:
    """The answer of an endpoint.

    Raises:
        UserError: the endpoint is not there, or the server refused the request, with its reason.
    """
    from botocore.exceptions import ClientError

    try:
        answer = boto.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint, Body=body, ContentType=content_type, Accept=accept
        )
    except ClientError as error:
        reason = error.response.get("OriginalMessage") or error.response["Error"]["Message"]
        raise UserError(f"The endpoint {endpoint} refused the request: {reason}") from error
    content: bytes = answer["Body"].read()
    return content


def stream(boto: Any, endpoint: str, body: bytes, content_type: str, accept: str) -> Iterator[bytes]:
    """The answer of an endpoint in parts, as they come (InvokeEndpointWithResponseStream).

    Raises:
        UserError: as of `invoke`, or the container broke off.
    """
    from botocore.exceptions import ClientError, EventStreamError

    try:
        answer = boto.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
            EndpointName=endpoint, Body=body, ContentType=content_type, Accept=accept
        )
        for event in answer["Body"]:
            yield event["PayloadPart"]["Bytes"]
    except EventStreamError as error:  # ModelStreamError and InternalStreamFailure
        raise UserError(f"The endpoint {endpoint} broke off: {error.response['Error']['Message']}") from error
    except ClientError as error:
        reason = error.response.get("OriginalMessage") or error.response["Error"]["Message"]
        raise UserError(f"The endpoint {endpoint} refused the request: {reason}") from error


def describe(sagemaker: Any, endpoint: str) -> dict[str, Any]:
    """DescribeEndpoint, or a UserError that names the nearest endpoint there is."""
    names = _endpoints(sagemaker, "")
    if endpoint not in names:
        raise UserError(f"There is no endpoint {endpoint}.", nearest(endpoint, names) if names else "There is none.")
    state: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=endpoint)
    return state


def _endpoints(sagemaker: Any, containing: str) -> list[str]:
    more = {"NameContains": containing} if containing else {}
    pages = sagemaker.get_paginator("list_endpoints").paginate(**more)
    return [endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]]


def _make_parts(sagemaker: Any, deployment: Deployment, undo: ExitStack) -> None:
    sagemaker.create_model(**deployment.model)
    undo.callback(_quietly, sagemaker.delete_model, ModelName=deployment.model["ModelName"])
    sagemaker.create_endpoint_config(**deployment.config)
    name = deployment.config["EndpointConfigName"]
    undo.callback(_quietly, sagemaker.delete_endpoint_config, EndpointConfigName=name)


def _wait(sagemaker: Any, endpoint: str, meanwhile: str, undo: ExitStack) -> dict[str, Any]:
    """Looks until the endpoint has settled. Ctrl-C leaves it to itself: SageMaker can't stop half-way."""
    going = (meanwhile, "SystemUpdating", "RollingBack")
    try:
        return watch.until(
            lambda: sagemaker.describe_endpoint(EndpointName=endpoint),
            lambda state: state["EndpointStatus"] not in going,
            lambda state, seconds: f"{endpoint}  {state['EndpointStatus']}  {seconds:.0f} s",
            POLL,
        )
    except KeyboardInterrupt:
        undo.pop_all()
        say(f"{endpoint} goes on {meanwhile.lower()} by itself; remove it with: delete {endpoint}")
        raise


def _scale(boto: Any, deployment: Deployment) -> None:
    scaling = boto.client("application-autoscaling")
    scaling.register_scalable_target(**deployment.scaling["RegisterScalableTarget"])
    scaling.put_scaling_policy(**deployment.scaling["PutScalingPolicy"])


def _targets(boto: Any, endpoint: str) -> list[str]:
    found = boto.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[_resource(endpoint)]
    )
    return [target["ResourceId"] for target in found["ScalableTargets"]]


def _delete_config(sagemaker: Any, config: str) -> list[str]:
    variants = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    sagemaker.delete_endpoint_config(EndpointConfigName=config)
    for variant in variants:
        sagemaker.delete_model(ModelName=variant["ModelName"])
    return [f"endpoint config {config}", *(f"model {variant['ModelName']}" for variant in variants)]


def _resource(endpoint: str) -> str:
    return f"endpoint/{endpoint}/variant/{VARIANT}"


def _quietly(action: Callable[..., Any], **arguments: str) -> None:
    """Cleans up one thing; that it can't be done must not hide why it had to be."""
    from botocore.exceptions import ClientError

    try:
        action(**arguments)
    except ClientError as error:
        say(f"could not clean up {next(iter(arguments.values()))}: {error}")
