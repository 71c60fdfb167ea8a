"""Watching a training job on AWS: its log as it comes, a line of progress, and why it failed."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from common.command.exits import say
from common.errors import Interrupted
from common.sagemaker.account import prices

GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
SECONDS = 5.0  # between two questions to AWS
_NOISE = re.compile(  # what the container's drivers say about any failure
    r"Training Execution failed|For more details, see CloudWatch|^TrainingJob - |exited with code|ExitCode \d|"
    r"^ExecuteUserScriptError|^Command \"|^ErrorMessage \"\"?$"
)
_EXCEPTION = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit|Warning)\b.*|^error: .+")


def until(
    ask: Callable[[], dict[str, Any]],
    ended: Callable[[dict[str, Any]], bool],
    line: Callable[[dict[str, Any], float], str],
    seconds: float,
) -> dict[str, Any]:
    """Asks until something has ended; returns the last answer.

    Args:
        line: about an answer, after so many seconds; it is said where it has changed.
        seconds: between two questions.
    """
    began, shown = time.monotonic(), ""
    while True:
        answer = ask()
        if (text := line(answer, time.monotonic() - began)) != shown:
            say(text)
        if ended(answer):
            return answer
        shown = text
        time.sleep(seconds)


def follow(boto: Any, name: str, seconds: float = SECONDS) -> dict[str, Any]:
    """Shows the log of a job until it ends; returns its description.

    Raises:
        Interrupted: Ctrl-C. The job runs on, and is said to.
    """
    client, log = boto.client("sagemaker"), Log(boto, f"{name}/")
    shown = ""
    try:
        while True:
            description: dict[str, Any] = client.describe_training_job(TrainingJobName=name)
            for line in log.new():
                _say(line)
            progress = progress_line(description)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{progress}")
            elif description["SecondaryStatus"] != shown:
                _say(progress)
            shown = description["SecondaryStatus"]
            if description["TrainingJobStatus"] in ENDED:
                if sys.stderr.isatty():
                    sys.stderr.write("\n")
                if description["TrainingJobStatus"] == "Failed":
                    _say(f"failed     {failure_reason(description.get('FailureReason', ''), log.tail)}")
                return description
            time.sleep(seconds)
    except KeyboardInterrupt:
        _say(f"\n{name} runs on. Watch it: python sagemaker/jobs.py logs {name}; end it: … stop {name}")
        raise Interrupted(2) from None


def progress_line(description: dict[str, Any], now: datetime | None = None) -> str:
    """What a job does, since when, and what it cost so far, such as `Training · 3 min 12 s · about $0.02`.

    Args:
        description: the answer of DescribeTrainingJob.
    """
    status = description.get("SecondaryStatus") or description["TrainingJobStatus"]
    began = description.get("TrainingStartTime")
    if began is None:
        return str(status)
    end = description.get("TrainingEndTime") or now or datetime.now(timezone.utc)
    seconds = max((end - began).total_seconds(), 0)
    parts = [str(status), f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"]
    billed = description.get("BillableTimeInSeconds") or seconds
    machines = description["ResourceConfig"]
    spent = prices.cost(machines.get("InstanceType", ""), machines.get("InstanceCount", 1), billed)
    return " · ".join([*parts, f"about ${spent:.2f}"] if spent is not None else parts)


def failure_reason(reason: str, log: Sequence[str] = ()) -> str:
    """The exception of our code among what AWS and the container's drivers say about a failure.

    Args:
        reason: FailureReason of the job; holds the failure file where the script wrote one.
        log: last lines of the log, oldest first; asked where the reason says nothing of ours.
    """
    text = re.sub(r"^AlgorithmError:\s*", "", reason.strip())
    text = re.sub(r",?\s*exit code:\s*\d+\s*$", "", text)
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    ours = [line for line in lines if _EXCEPTION.match(line.strip())]
    if ours:
        return ours[-1].strip()
    if lines:
        return "\n".join(lines)
    from_log = [line.strip() for line in log if _EXCEPTION.match(line.strip()) and not _NOISE.search(line)]
    return from_log[-1] if from_log else reason.strip() or "AWS gives no reason; see the log."


class Log:
    """A CloudWatch log, all machines in one, without what was read before.

    Args:
        prefix: of the streams' names, such as "JOB/"; "" for all of the group.
    """

    def __init__(self, boto: Any, prefix: str, group: str = GROUP) -> None:
        self._client = boto.client("logs")
        self._group = group
        self._prefix = {"logStreamNamePrefix": prefix} if prefix else {}
        self._tokens: dict[str, str] = {}
        self.tail: list[str] = []  # the last lines, for the reason of a failure

    def new(self) -> Iterator[str]:
        """The lines that came since the last call, each with its machine where there are several."""
        streams = self._streams()
        for stream in streams:
            label = f"[{stream.partition('/')[2].rpartition('-')[0]}] " if len(streams) > 1 else ""
            for line in self._lines(stream):
                self.tail = [*self.tail[-199:], line]
                yield label + line

    def _streams(self) -> list[str]:
        from botocore.exceptions import ClientError

        try:
            found = self._client.describe_log_streams(logGroupName=self._group, **self._prefix)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":  # nothing was ever logged
                return []
            raise
        return [stream["logStreamName"] for stream in found["logStreams"]]

    def _lines(self, stream: str) -> Iterator[str]:
        while True:
            known = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            page = self._client.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **known
            )
            yield from (event["message"].rstrip("\n") for event in page["events"])
            ended = page["nextForwardToken"] == self._tokens.get(stream)  # the same token again says: no more yet
            self._tokens[stream] = page["nextForwardToken"]
            if ended or not page["events"]:
                return


def _say(line: str) -> None:
    sys.stderr.write(("\r\033[K" if sys.stderr.isatty() else "") + line + "\n")
