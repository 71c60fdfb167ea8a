"""Predictions for a folder, a file of lines or an S3 prefix by a batch transform job, joined to their inputs.

python sagemaker/batch_transform.py runs/vision.train/LATEST photos/                         on this machine
python sagemaker/batch_transform.py JOB reviews.jsonl --max-payload 1
python sagemaker/batch_transform.py JOB s3://BUCKET/photos/ --content-type application/x-image \\
    --execution-mode aws --image URI
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import trust
from common.command import arguments
from common.sagemaker.training.job import Where
from common.sagemaker.transform import main as batch
from common.sagemaker.transform.here import TransformSettings


@arguments.takes(settings=TransformSettings, where=Where)
def main(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a run's folder, model.tar.gz, a job, or s3://…")],
    data: Annotated[str, typer.Argument(metavar="INPUT", help="a file, a folder, or s3://BUCKET/PREFIX")],
    settings: TransformSettings,
    where: Where,
    content_type: Annotated[str | None, typer.Option(help="of the input (default: by the files' suffix)")] = None,
    split_lines: Annotated[
        bool | None, typer.Option(help="an input on each line (default: for .csv and .jsonl)", show_default=False)
    ] = None,
    trust_export: trust.Flag = False,
) -> int:
    """Predicts every input and writes OUT/sagemaker/JOB/predictions.jsonl and .csv; exits with 1 if some failed."""
    trust.allow(trust_export)
    return batch.run(model, data, content_type, split_lines, settings, where)


if __name__ == "__main__":
    arguments.run_script("python sagemaker/batch_transform.py", main)
