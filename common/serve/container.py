"""The server inside a SageMaker container: everything comes from the environment.

SM_MODEL_DIR (/opt/ml/model) and SAGEMAKER_BIND_TO_PORT (8080) say what to serve and where. Batch transform adds
SAGEMAKER_BATCH, SAGEMAKER_MAX_PAYLOAD_IN_MB and SAGEMAKER_MAX_CONCURRENT_TRANSFORMS. SAGEMAKER_BATCH_STRATEGY asks for
nothing: one record and several are the same code, and the content type says where a record ends.
"""

from __future__ import annotations

import os

from common.errors import UserError
from common.serve import formats
from common.serve.server import start
from common.serve.settings import MEGABYTE, Address, Settings

ANY_NUMBER = 2**40
REAL_TIME_LIMIT = 25  # MB that an endpoint passes on; the runtime's own limit


def main() -> int:
    """Serves the model of the container until SIGTERM."""
    # A container is reached from outside; the same server on somebody's machine is not.
    place = Address(os.environ.get("SAGEMAKER_BIND_TO_HOST", "0.0.0.0"), _number("SAGEMAKER_BIND_TO_PORT", 8080))
    return start([f"model={os.environ.get('SM_MODEL_DIR', '/opt/ml/model')}"], settings(), place)


def settings() -> Settings:
    """What SageMaker's environment asks for.

    Raises:
        UserError: a variable holds no whole number.
    """
    batch = os.environ.get("SAGEMAKER_BATCH", "").lower() in ("true", "1")
    endpoint = Settings()
    return Settings(
        # Batch transform fills a payload with as many records as it holds, and waits for the answer as long as its job
        # says, an hour at most. Nobody else asks.
        max_inputs=ANY_NUMBER if batch else endpoint.max_inputs,
        timeout=3600.0 if batch else endpoint.timeout,
        max_body=_number("SAGEMAKER_MAX_PAYLOAD_IN_MB", REAL_TIME_LIMIT) * MEGABYTE or ANY_NUMBER,  # 0 is unlimited
        max_requests=max(64, 2 * _number("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", 1)),
        # Of one record the same bytes as JSON; of several what AssembleWith=Line joins.
        default_format=formats.JSON_LINES if batch else formats.JSON,
    )


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable, "").strip() or str(default)
    if not value.isdecimal():
        raise UserError(f"{variable} is {value!r}, not a whole number.")
    return int(value)
