"""Runs in the container of a training job: any example, by its hyperparameters. See common/sagemaker/entry.py."""

from common.sagemaker.entry import main

if __name__ == "__main__":
    main()
