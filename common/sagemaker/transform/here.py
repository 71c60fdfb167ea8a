"""Batch transform: predictions for files or lines, on SageMaker or here, joined to their inputs.

What SageMaker does, and `run_here` does after it: a file is sent whole, or cut between lines into requests of
MaxPayloadInMB at the most; MaxConcurrentTransforms requests run at once; the answers to a file, each ended by a
newline, become the object KEY.out. A file of which one request fails gets no KEY.out, the others get theirs, and the
job is marked as failed. Here the records of a failed request are then asked for by halves, so that the one at fault
is named and its neighbours have their answers in the table; on SageMaker the container's log has the reason.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common import artifact, example
from common.config import option
from common.errors import UserError
from common.files import write_whole
from common.predict.rows import Layout, RowWriter
from common.sagemaker.hosting.models import TrainedModel
from common.sagemaker.hosting.server import Client, Server, ServerAnswer
from common.sagemaker.transform.files import LINE, MEGABYTE, ROWS, File, Format, Piece, pieces

OK, BUSY = 200, 503
CSV = "text/csv"
BATCH_TIMEOUT = 600.0  # seconds for a request of batch transform; an endpoint gives it 60
RETRIES = 3  # of a request that the server could not take now, as InvocationsMaxRetries at its most
_GROUP = "Batch transform"


@dataclass(frozen=True)
class TransformSettings:
    """How a job sends its requests, and on what it runs."""

    single_record: bool = option(False, "a request for each line, not for as many as fit", group=_GROUP)
    max_payload: int = option(6, "MB of a request at the most", group=_GROUP, at_least=1, at_most=100)
    concurrent: int = option(16, "requests at once, on each machine", group=_GROUP, at_least=1, at_most=100)
    instance_type: str = option("ml.m5.xlarge", "machine that predicts (aws)", group=_GROUP)
    instances: int = option(1, "how many of them (aws)", group=_GROUP, at_least=1, at_most=100)

    @property
    def strategy(self) -> str:
        return "SingleRecord" if self.single_record else "MultiRecord"

    def check_together(self) -> None:
        """Raises UserError where SageMaker would refuse the two limits together."""
        if self.concurrent * self.max_payload > 100:
            raise UserError(
                f"--concurrent {self.concurrent} times --max-payload {self.max_payload} is more than 100 MB.",
                "SageMaker allows 100 MB on their way; lower one of them.",
            )

    @property
    def environment(self) -> dict[str, str]:
        """What batch transform tells the container about itself."""
        return {
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_BATCH_STRATEGY": self.strategy,
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(self.max_payload),
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(self.concurrent),
        }


@dataclass(frozen=True)
class TransformJob:
    """A batch transform, checked and ready to start.

    Attributes:
        name: unique; of the job on SageMaker too.
        source: s3:// prefix of the input; empty where it is files of this machine.
        files: those files.
        form: their content type, and how they are cut.
        folder: gets `output/` with a KEY.out for each file, and the tables.
    """

    name: str
    model: TrainedModel
    source: str
    files: Sequence[File]
    form: Format
    settings: TransformSettings
    folder: Path


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        folder: that holds `output/` and the tables.
        rows: how many there are.
        failures: name and reason of each input without an answer.
    """

    folder: Path
    rows: int
    failures: Sequence[tuple[str, str]]


class Reply(NamedTuple):
    """What came back for one piece.

    Args:
        answers: one for each record, `{"error": ...}` for one that was refused.
        body: as the server sent it; None if the request failed.
    """

    answers: list[dict[str, Any]]
    body: bytes | None


def send_all(client: Client, job: TransformJob) -> Iterator[list[dict[str, Any]]]:
    """Sends files to a server as batch transform does, and writes KEY.out for each that succeeds as a whole.

    Yields:
        the rows of each file, in order.
    """
    form, settings = job.form, job.settings
    limit = settings.max_payload * MEGABYTE
    cut = [list(pieces(file.path, form.split, settings.single_record, limit)) for file in job.files]
    with ThreadPoolExecutor(settings.concurrent) as pool:
        replies = pool.map(partial(_send, client, form), (piece for each in cut for piece in each))
        for file, each in zip(job.files, cut, strict=True):
            got = [next(replies) for _ in each]
            if all(reply.body is not None for reply in got):
                with write_whole(job.folder / "output" / f"{file.key}.out", sync=False) as opened:
                    opened.writelines(reply.body + b"\n" for reply in got if reply.body)
            yield join(file, form, [answer for reply in got for answer in reply.answers])


def _send(client: Client, form: Format, piece: Piece) -> Reply:
    body = piece.read()
    if form.split == LINE and not body.strip():
        return Reply([], b"")
    answer = _invoke(client, form, body)
    if answer.status == OK:
        return Reply(parse_answers(answer.body), answer.body)
    return Reply(_one_by_one(client, form, _records(body) if form.split == LINE else [body], answer), None)


def _one_by_one(client: Client, form: Format, records: list[bytes], refusal: ServerAnswer) -> list[dict[str, Any]]:
    """An answer or an error for each record of a request that was refused, found by halving it."""
    if len(records) == 1:
        return [{"error": refusal.reason}]
    middle = len(records) // 2
    found = []
    for half in (records[:middle], records[middle:]):
        answer = _invoke(client, form, b"\n".join(half))
        found += parse_answers(answer.body) if answer.status == OK else _one_by_one(client, form, half, answer)
    return found


def _invoke(client: Client, form: Format, body: bytes) -> ServerAnswer:
    answer = client.invoke(body, form.content_type, ROWS)
    for attempt in range(1, RETRIES + 1):
        if answer.status != BUSY:
            break
        time.sleep(attempt)
        answer = client.invoke(body, form.content_type, ROWS)
    return answer


# -- answers and their inputs ------------------------------------------------------------------------------


def parse_answers(body: bytes) -> list[dict[str, Any]]:
    """The rows of an answer or of a KEY.out."""
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def join(file: File, form: Format, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers with the names of their inputs, and with the line that each stands for.

    A table's header has no answer of its own. A file that was sent whole may hold several inputs, which are numbered.
    """
    if form.split != LINE:
        names = [file.name] if len(answers) == 1 else [f"{file.name}:{n}" for n in range(1, len(answers) + 1)]
        return [{"file": name, **answer} for name, answer in zip(names, answers, strict=True)]
    lines = [(n, line.strip()) for n, line in enumerate(file.path.read_bytes().splitlines(), start=1) if line.strip()]
    if len(lines) == len(answers) + 1 and form.content_type == CSV:
        del lines[0]
    if len(lines) != len(answers):
        return [{"file": file.name, "error": f"{len(answers)} answers to {len(lines)} lines"}]
    return [
        {"file": f"{file.name}:{n}", "input": line.decode(errors="replace"), **answer}
        for (n, line), answer in zip(lines, answers, strict=True)
    ]


def _records(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


def layout_of(saved: artifact.Artifact, form: Format) -> Layout:
    """What the rows of a model hold; those of lines repeat the line."""
    predictor = example.predictor_of(saved)
    return Layout(predictor.answer, inputs=form.split == LINE)


def write_tables(folder: Path, layout: Layout, batches: Iterable[list[dict[str, Any]]]) -> Result:
    """Writes predictions.jsonl and, but for answers that are files, predictions.csv, as the rows come."""
    failures: list[tuple[str, str]] = []
    count = 0
    with ExitStack() as open_tables:
        names = ["predictions.jsonl"] if layout.answer.in_files else ["predictions.jsonl", "predictions.csv"]
        tables = [open_tables.enter_context(RowWriter(folder / name, layout)) for name in names]
        for rows in batches:
            for table in tables:
                table.write(rows)
            count += len(rows)
            failures += [(row["file"], row["error"]) for row in rows if "error" in row]
    return Result(folder, count, failures)


def run_here(job: TransformJob) -> Result:
    """Runs a job on this machine, by the server that the container runs; its log is beside the tables."""
    with tempfile.TemporaryDirectory() as temporary:
        saved = job.model.unpack(Path(temporary))
        saved.check_trust()
        job.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1) as meanwhile:  # the server takes seconds to start
            layout = meanwhile.submit(layout_of, saved, job.form)
            with Server(saved.folder, job.settings.environment, job.folder / "log.txt", BATCH_TIMEOUT) as server:
                return write_tables(job.folder, layout.result(), send_all(server.client, job))
