"""Runs in the container of a training job: any example; see common/sagemaker/container/entry.py."""

from common.sagemaker.container.entry import main

if __name__ == "__main__":
    main(default="vision.train")
