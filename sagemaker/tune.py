"""Tunes any example as a SageMaker tuning job: on this machine without AWS, or on AWS.

python sagemaker/tune.py vision.train --jobs 20 --parallel 2                         on this machine, no account
python sagemaker/tune.py vision.train --jobs 40 --job-name NAME                      goes on with it
python sagemaker/tune.py nlp.classify --jobs 20 --parallel 4 --execution-mode aws --spot -- --data ag-news
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.sagemaker.tuning.main import main

if __name__ == "__main__":
    main(default="vision.train")
