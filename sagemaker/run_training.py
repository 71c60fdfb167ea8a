"""Trains any example as a SageMaker job: on this machine without AWS, in local containers, or on AWS.

python sagemaker/run_training.py                                  vision.train, on this machine, no account
python sagemaker/run_training.py rl.dqn -- --rainbow              arguments of the example after --
python sagemaker/run_training.py nlp.classify --execution-mode aws --instance-type ml.g6.xlarge --spot
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.sagemaker.training.launch import main

if __name__ == "__main__":
    main(default="vision.train")
