"""Every figure of docs/results.md, measured here: `make bench`, or `python -m tests.bench NAME...` for some of them.

  make bench BENCH="digits mnist" DATA=FOLDER_WITH_MNIST PEER=CHECKOUT_OF_PYTORCH_EXAMPLES

Each writes results/NAME.json when it is through; `make results` then makes the pages from the files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.machine import device
from tests.bench import (  # noqa: F401  each declares benchmarks
    agents,
    batch,
    boxes,
    commands,
    exports,
    gans,
    hostile,
    images,
    page,
    pictures,
    precision,
    series,
    serving,
    speech,
    tables,
    texts,
    translate,
    xray,
)
from tests.bench.tools import BENCHES
from tests.results import RESULTS

DEFAULT = ["startup", "digits", "fit", "families", "kills", "hostile"]  # which need no data and no peer


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the files; %(default)s")
    parser.add_argument("--data", help="folder with mnist/, birds-cub-subset/, ETT-small/ and the texts")
    parser.add_argument("--cifar", help="npz file with x_train y_train x_test y_test")
    parser.add_argument("--cifar-epochs", default="70")
    parser.add_argument("--peer", help="checkout of github.com/pytorch/examples")
    parser.add_argument("--sb3", help="a Python that has stable-baselines3")
    parser.add_argument("--cleanrl", help="checkout of github.com/vwxyzjn/cleanrl")
    parser.add_argument("--cleanrl-python", help="a Python that has what it pins")
    parser.add_argument("--pytorch-gan", help="checkout of github.com/eriklindernoren/PyTorch-GAN")
    parser.add_argument("--gan-seconds", default="600", help="of training for each of its scripts")
    parser.add_argument("--gan-losses", default="dcgan")
    parser.add_argument("--gan-epochs", default="4", help="of our trainings")
    parser.add_argument("--gan-seeds", type=int, default=3)
    parser.add_argument("--minilm-seeds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000, help="hostile ones, to each server")
    parser.add_argument("--files", type=int, default=2_000, help="of a batch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load on each server, in each round")
    parser.add_argument("--rounds", type=int, default=3, help="of servers and batches, in turns")
    parser.add_argument("--precision", default="auto", help="of all servers")
    parser.add_argument("--run", action="append", type=Path, default=[], help="a run or an export; for some, several")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHES:
            parser.error(f"{name}: there is no such benchmark. There are {', '.join(BENCHES)}.")
    device.set_threads()
    for name in options.names or DEFAULT:
        sys.stdout.write(f"{BENCHES[name].record(options, options.results)}\n")


if __name__ == "__main__":
    main()
