"""Every example on a GPU, then the GPU's rows of the benchmarks, in minutes: `make gpu`.

  make gpu DATA=FOLDER_WITH_mnist_AND_tinyshakespeare PEER=CHECKOUT_OF_PYTORCH_EXAMPLES GPU="--only smoke,dqn"

Prints a table, writes gpu.json beside the log of each part, and the figures of each part to results/gpu-PART.json. Ends
with code 1 if anything failed; what is not installed or not given is skipped and said.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from common import example
from common.machine.device import cores, set_threads
from tests.gpu import report
from tests.gpu.parts import Part, perform
from tests.gpu.timings import NEEDED, PARTS
from tests.results import RESULTS

# Seconds that a timing part may take on a GPU; all together are held to --minutes.
BOXES = {"mnist": 45, "small": 60, "resnet": 75, "dqn": 45, "peer": 60, "gan": 60, "gpt": 60, "aoti": 120}
SMOKE = 120
SMOKE_SHARE = 0.5  # of the minutes; the rest is for the timings
THREADS = 2  # of a smoke part: they are not timed, and a GPU has room for as many tiny ones as there are cores for


def parts(options: argparse.Namespace) -> list[Part]:
    """What is done, in its order: the examples first, and then what is most worth knowing."""
    given = ["--device", options.device]
    wide = [
        *given,
        *(["--data", options.data] if options.data else []),
        *(["--peer", options.peer] if options.peer else []),
    ]
    made = [Part(f"smoke {name}", ["tests.gpu.smoke", name, *given], SMOKE, alone=False) for name in example.names()]
    made += [Part(name, ["tests.gpu.timings", name, *wide], BOXES[name]) for name in PARTS]
    if options.only is None:
        return made
    wanted = options.only.split(",")
    known = {word for part in made for word in (part.name, part.name.partition(" ")[0], part.name.rpartition(" ")[2])}
    for name in wanted:
        if name not in known:
            raise SystemExit(f"error: --only {name}: there is no such part. There are {', '.join(sorted(known))}.")
    return [part for part in made if {part.name, *part.name.split(" ")} & set(wanted)]


def data_folder(data: str | None) -> str | None:
    """The folder as a whole path; the program ends where it holds no data set that a part needs."""
    if data and not any(Path(data, name).is_dir() for name in NEEDED):
        raise SystemExit(f"error: --data {data}: neither {' nor '.join(NEEDED)} is there.")
    return str(Path(data).resolve()) if data else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/gpu", help="folder of gpu.json and the logs; %(default)s")
    parser.add_argument(
        "--results", type=Path, help="folder of the figures' files; results, but none with --device cpu"
    )
    parser.add_argument("--data", help="folder of data sets, in folders of their own: " + ", ".join(NEEDED))
    parser.add_argument("--peer", help="checkout of github.com/pytorch/examples")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which nothing runs any more; %(default)g")
    parser.add_argument("--device", default="cuda", help="cpu tries this program itself, much reduced; %(default)s")
    parser.add_argument("--only", metavar="PART,...", help=f"smoke, an example, {', '.join(PARTS)}")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.stderr.write("error: PyTorch finds no GPU here. --device cpu tries the program itself.\n")
        return 2
    options.data = data_folder(options.data)
    set_threads()
    chosen, out = parts(options), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    end = began + 60 * options.minutes
    early, late = ([part for part in chosen if part.alone is alone] for alone in (False, True))
    share = SMOKE_SHARE if late else 1.0
    at_once = max(1, cores() // THREADS) if options.device != "cpu" else 1
    done = perform(early, out, began + 60 * options.minutes * share, at_once)
    done += perform(late, out, end, 1)
    found = report.collect(done, options.device, time.monotonic() - began)
    report.write(out / "gpu.json", found)
    folder = options.results or (None if options.device == "cpu" else RESULTS)
    if folder:
        report.record(found, folder)
    sys.stdout.write(report.table(found))
    return 1 if any(part["status"] == "failed" for part in found["parts"]) else 0


if __name__ == "__main__":
    sys.exit(main())
