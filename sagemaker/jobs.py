"""Finds again what this project started on SageMaker: training, tuning and transform jobs, and endpoints.

python sagemaker/jobs.py list
python sagemaker/jobs.py show|stop|logs NAME
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.command.exits import run
from common.sagemaker.jobs import main

if __name__ == "__main__":
    run(main, "python sagemaker/jobs.py")
