"""Batch transform: cutting and joining as SageMaker does, the requests, and the real server on this machine."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common import example as catalogue
from common.errors import UserError
from common.kinds.labels import Labels
from common.sagemaker.hosting import models
from common.sagemaker.hosting.server import Server, ServerAnswer
from common.sagemaker.training.job import Where
from common.sagemaker.transform import aws as transform_jobs
from common.sagemaker.transform import here as transform
from common.sagemaker.transform import main as batch
from common.sagemaker.transform.files import LINE, NONE, File, Format, find_files, format_of, pieces
from common.sagemaker.transform.here import TransformJob, TransformSettings, send_all
from tests.sagemaker_helpers import BUCKET, IMAGE, REGION, ROLE, Requests, account, artifact_of

LINES = Format("application/jsonlines", LINE)


class Fake:
    """A server that answers a line with a row that repeats it, refuses what holds "bad", and notes each request."""

    def __init__(self, busy: int = 0) -> None:
        self.bodies: list[bytes] = []
        self._busy = busy
        self._lock = threading.Lock()

    def invoke(self, body: bytes, content_type: str, accept: str) -> ServerAnswer:
        with self._lock:
            self.bodies.append(body)
            self._busy -= 1
            if self._busy >= 0:
                return ServerAnswer(503, "application/json", b'{"error": "busy"}')
        if b"bad" in body:
            return ServerAnswer(400, "application/json", b'{"error": "this is bad"}')
        records = [line for line in body.splitlines() if line.strip()] if content_type != "text/plain" else [body]
        return ServerAnswer(200, accept, b"\n".join(json.dumps({"class": r.decode()}).encode() for r in records))


def job(folder: Path, form: Format = LINES, files: list[File] | None = None, **settings: Any) -> TransformJob:
    made = files if files is not None else find_files(str(folder / "in"))
    return TransformJob(
        "job", models.TrainedModel("vision.train"), "", made, form, TransformSettings(**settings), folder / "job"
    )


def put(folder: Path, **files: str) -> None:
    (folder / "in").mkdir()
    for name, text in files.items():
        (folder / "in" / name.replace("_", ".")).write_text(text)


# -- cutting, sending, assembling --------------------------------------------------------------------------


def test_files_are_cut_between_lines_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"one\ntwo\nthree\nfour")

    def cut(split: str, single: bool, limit: int) -> list[bytes]:
        return [piece.read() for piece in pieces(file, split, single, limit)]

    assert cut(NONE, False, 1) == [b"one\ntwo\nthree\nfour"]
    assert cut(LINE, True, 100) == [b"one\n", b"two\n", b"three\n", b"four"]
    assert cut(LINE, False, 100) == [b"one\ntwo\nthree\nfour"]
    assert cut(LINE, False, 8) == [b"one\ntwo\n", b"three\n", b"four"]
    assert cut(LINE, False, 7) == [b"one\n", b"two\n", b"three\n", b"four"]
    assert cut(LINE, False, 1) == [b"one\n", b"two\n", b"three\n", b"four"]  # a line is never cut


def test_answers_are_joined_by_lines_without_blank_ones(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl="1\n2\n\n3\n", b_jsonl="4")
    for single in (True, False):
        rows = [row for rows in send_all(Fake(), job(tmp_path, single_record=single)) for row in rows]  # type: ignore[arg-type]
        assert [(Path(row["file"]).name, row["input"], row["class"]) for row in rows] == [
            ("a.jsonl:1", "1", "1"),
            ("a.jsonl:2", "2", "2"),
            ("a.jsonl:4", "3", "3"),
            ("b.jsonl:1", "4", "4"),
        ]
        output = (tmp_path / "job" / "output" / "a.jsonl.out").read_text()
        assert output == '{"class": "1"}\n{"class": "2"}\n{"class": "3"}\n'


def test_a_bad_record_is_named_and_its_neighbours_are_answered(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl="".join(f"{'bad' if n in (3, 77) else n}\n" for n in range(1, 101)), b_jsonl="good\n")
    server = Fake()
    rows = [row for rows in send_all(server, job(tmp_path)) for row in rows]  # type: ignore[arg-type]
    assert [row["file"].rpartition(":")[2] for row in rows if "error" in row] == ["3", "77"]
    assert {row["error"] for row in rows if "error" in row} == {"this is bad"}
    assert [row["class"] for row in rows if "error" not in row][-1] == "good"
    assert len(rows) == 101
    assert len(server.bodies) < 40, "by halves, not one by one"
    # As on SageMaker: no partial output.
    assert [p.name for p in (tmp_path / "job" / "output").iterdir()] == ["b.jsonl.out"]


def test_a_busy_server_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform.time, "sleep", lambda seconds: None)
    put(tmp_path, a_jsonl="1\n")
    ((row,),) = send_all(Fake(busy=3), job(tmp_path))  # type: ignore[arg-type]
    assert row["class"] == "1"
    ((row,),) = send_all(Fake(busy=99), job(tmp_path))  # type: ignore[arg-type]
    assert row["error"] == "busy"


def test_the_header_of_a_table_has_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n3,4\n")
    file, form = File("a.csv", "a.csv", path), Format("text/csv", LINE)
    rows = transform.join(file, form, [{"class": "a"}, {"class": "b"}])
    assert [(row["file"], row["input"]) for row in rows] == [("a.csv:2", "1,2"), ("a.csv:3", "3,4")]
    assert transform.join(file, form, [{"class": "a"}]) == [{"file": "a.csv", "error": "1 answers to 3 lines"}]


def test_the_content_type_comes_from_the_suffixes() -> None:
    assert format_of(["a.PNG", "b.jpeg", "c.wav", "d"]) == Format("application/octet-stream", NONE)
    assert format_of(["a.csv"]).split == LINE
    with pytest.raises(UserError, match=r"a\.png and b\.csv are of different kinds\.\nGive each kind"):
        format_of(["a.png", "b.csv"])
    with pytest.raises(UserError, match=r"s3://b/in/: no content type is known"):
        format_of(["s3://b/in/"])


# -- requests ----------------------------------------------------------------------------------------------


@pytest.fixture
def boto(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("sagemaker.core")
    monkeypatch.setattr(transform_jobs, "POLL", 0)
    with account() as session:
        yield session


def on_aws(out: Path, **more: Any) -> Where:
    return Where("aws", **{"image": IMAGE, "role": ROLE, "bucket": BUCKET, "region": REGION, "out": str(out), **more})


def test_the_requests_of_every_example(boto: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text("1\n")
    for name in catalogue.names():
        folder = artifact_of(name, tmp_path / name)
        capfd.readouterr()
        batch.run(
            str(folder), str(tmp_path / "a.jsonl"), None, None, TransformSettings(), on_aws(tmp_path, dry_run=True)
        )
        shown = capfd.readouterr().out
        first, end = json.JSONDecoder().raw_decode(shown)
        second = json.loads(shown[end:])
        model, request = first["CreateModel"], second["CreateTransformJob"]
        prefix = f"s3://{BUCKET}/pytorch-use-cases/batch/{request['TransformJobName']}"
        tags = [{"Key": "project", "Value": "pytorch-use-cases"}, {"Key": "example", "Value": name}]
        source = {"S3DataType": "S3Prefix", "S3Uri": f"{prefix}/input/"}
        assert request == {
            "TransformJobName": request["TransformJobName"],
            "ModelName": model["ModelName"],
            "Tags": tags,
            "BatchStrategy": "MultiRecord",
            "MaxConcurrentTransforms": 16,
            "MaxPayloadInMB": 6,
            "TransformInput": {
                "DataSource": {"S3DataSource": source},
                "ContentType": "application/jsonlines",
                "SplitType": "Line",
            },
            "TransformOutput": {
                "S3OutputPath": f"{prefix}/output",
                "Accept": "application/jsonlines",
                "AssembleWith": "Line",
            },
            "TransformResources": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        }
        requests = Requests(boto)  # checks what is sent
        boto.client("sagemaker").create_model(**model)
        boto.client("sagemaker").create_transform_job(**request)
        assert requests.operations == ["CreateModel", "CreateTransformJob"]


class SageMaker:
    """Does the transform jobs that moto only notes: reads the input, writes KEY.out beside what it is told to fail."""

    def __init__(self, boto: Any, monkeypatch: pytest.MonkeyPatch, fail: str = "nothing") -> None:
        self._s3, self._fail = boto.client("s3"), fail
        monkeypatch.setattr("common.sagemaker.account.session.connect", lambda *_: (boto, REGION))
        boto.events.register("provide-client-params.sagemaker.CreateTransformJob", self._work)
        boto.events.register("after-call.sagemaker.DescribeTransformJob", self._describe)

    def _work(self, params: dict[str, Any], **_: Any) -> None:
        prefix = params["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"].removeprefix(f"s3://{BUCKET}/")
        target = params["TransformOutput"]["S3OutputPath"].removeprefix(f"s3://{BUCKET}/")
        for key in (item["Key"] for item in self._s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]):
            if self._fail not in key:
                body = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                answer = Fake().invoke(body, params["TransformInput"]["ContentType"], "").body + b"\n"
                self._s3.put_object(Bucket=BUCKET, Key=f"{target}/{key.removeprefix(prefix)}.out", Body=answer)

    def _describe(self, parsed: dict[str, Any], **_: Any) -> None:
        failed = {"TransformJobStatus": "Failed", "FailureReason": "AlgorithmError: See job logs"}
        parsed.update(failed if self._fail != "nothing" else {"TransformJobStatus": "Completed"})


@pytest.mark.parametrize("in_s3", [False, True])
def test_the_whole_way_on_aws(
    boto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], in_s3: bool
) -> None:
    """Of a job that failed for one file the answers to the others are joined, and nothing stays behind but S3."""
    layout = transform.Layout(Labels([]), inputs=True)
    monkeypatch.setattr(transform_jobs, "layout_of", lambda *_: layout)
    put(tmp_path, a_jsonl="1\n2\n", fail_jsonl="3\n")
    (tmp_path / "in" / ".hidden").write_text("not to be sent")
    source, model = str(tmp_path / "in"), str(artifact_of("vision.train", tmp_path / "model"))
    if in_s3:
        source = f"s3://{BUCKET}/texts/"
        for path in (tmp_path / "in").glob("*.jsonl"):
            boto.client("s3").upload_file(str(path), BUCKET, f"texts/{path.name}")
        models.pack(tmp_path / "model", tmp_path / "model.tar.gz")
        boto.client("s3").upload_file(str(tmp_path / "model.tar.gz"), BUCKET, "jobs/j/output/model.tar.gz")
        model = f"s3://{BUCKET}/jobs/j/output/model.tar.gz"
    SageMaker(boto, monkeypatch, fail="fail")
    where, kind = on_aws(tmp_path / "runs"), "application/jsonlines"
    assert batch.run(model, source, kind, None, TransformSettings(), where) == 1
    (folder,) = (tmp_path / "runs" / "sagemaker").iterdir()
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    beginning = source.rstrip("/") + "/"
    assert rows == [
        {"file": f"{beginning}a.jsonl:1", "input": "1", "class": "1"},
        {"file": f"{beginning}a.jsonl:2", "input": "2", "class": "2"},
        {"file": f"{beginning}fail.jsonl", "error": "no answer: AlgorithmError: See job logs"},
    ]
    assert (folder / "output" / "a.jsonl.out").read_text() == '{"class": "1"}\n{"class": "2"}\n'
    assert "3 inputs, 1 failed" in capfd.readouterr().err
    assert boto.client("sagemaker").list_models()["Models"] == []


def test_a_job_without_any_answer_gives_the_reason(boto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a_jsonl="1\n")
    SageMaker(boto, monkeypatch, fail="a.jsonl")
    model = str(artifact_of("vision.train", tmp_path / "model"))
    with pytest.raises(UserError, match=r"gave no answers: AlgorithmError: See job logs\nSee what its container said"):
        batch.run(model, str(tmp_path / "in"), None, None, TransformSettings(), on_aws(tmp_path / "runs"))
    assert boto.client("sagemaker").list_models()["Models"] == []
    assert not (tmp_path / "runs").exists()


def test_answers_are_found_where_the_documentation_puts_them() -> None:
    assert transform_jobs.find_output("a/b.csv", ["a/b.csv.out", "b.csv.out"]) == "a/b.csv.out"
    assert transform_jobs.find_output("a/b.csv", ["prefix/b.csv.out"]) == "prefix/b.csv.out"
    assert transform_jobs.find_output("a/b.csv", ["x/b.csv.out", "y/b.csv.out"]) is None


def test_mistakes_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    put(tmp_path, a_jsonl="1\n")
    model, data = str(artifact_of("vision.train", tmp_path / "model")), str(tmp_path / "in")
    here = Where(out=str(tmp_path / "runs"))
    (tmp_path / "empty").mkdir()
    mistakes: list[tuple[str, TransformSettings, Where, str]] = [
        (
            data,
            TransformSettings(concurrent=20, max_payload=6),
            here,
            "--concurrent 20 times --max-payload 6 is more than 100",
        ),
        (data, TransformSettings(), Where("local"), "Batch transform has no local mode."),
        (data, TransformSettings(), Where(dry_run=True), "--dry-run shows requests to AWS, and fast-local sends none."),
        ("s3://bucket/in", TransformSettings(), here, "s3://bucket/in is on AWS, and fast-local sends none."),
        (str(tmp_path / "nowhere"), TransformSettings(), here, "There is no file or folder"),
        (str(tmp_path / "empty"), TransformSettings(), here, "is empty."),
        (data, TransformSettings(), on_aws(tmp_path / "runs", image=None), "needs an image with our server."),
    ]
    for source, settings, where, text in mistakes:
        with pytest.raises(UserError) as error:
            batch.run(model, source, None, None, settings, where)
        assert text in str(error.value)
    assert not (tmp_path / "runs").exists()


# -- the real server ---------------------------------------------------------------------------------------


def test_photos_through_the_real_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same classes as common.predict gives, a broken photo named, KEY.out for the others."""
    from common.command.arguments import Options
    from common.command.execute import execute
    from vision.train import example

    done = execute(example, Options(out=str(tmp_path), tiny=True, quiet=True), {"model": "lenet"})
    (tmp_path / "in" / "b").mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / ("b" if number > 3 else "") / f"{number}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    data = str(tmp_path / "in")
    assert batch.run(done["run"], data, None, None, TransformSettings(), Where(out=str(tmp_path / "jobs"))) == 1
    (folder,) = (tmp_path / "jobs" / "sagemaker").iterdir()
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == sorted(map(str, Path(data).rglob("*.png")))
    predictor = example.load(models.find(done["run"]).unpack(tmp_path))
    for row in rows:
        if "broken" in row["file"]:
            assert "not an image" in row["error"]
        else:
            (expected,) = predictor.predict([predictor.input.decode(Path(row["file"]))])
            assert row["class"] == expected["class"]
            assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
    with (folder / "predictions.csv").open(newline="") as table:
        assert [line["class"] for line in csv.DictReader(table)] == [row.get("class", "") for row in rows]
    outputs = sorted(p.relative_to(folder / "output").as_posix() for p in folder.rglob("*.out"))
    assert outputs == ["0.png.out", "1.png.out", "2.png.out", "3.png.out", "b/4.png.out", "b/5.png.out"]
    assert "7 inputs, 1 failed" in capfd.readouterr().err


def test_batch_transforms_variables_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAGEMAKER_VALIDATE_ROLE", raising=False)  # which our own launcher sets for the SDK
    settings = TransformSettings(max_payload=2, concurrent=3, single_record=True)
    server = Server(tmp_path, settings.environment)
    assert {k: v for k, v in server.environment.items() if k.startswith(("SAGEMAKER_", "SM_MODEL"))} == {
        "SM_MODEL_DIR": str(tmp_path),
        "SAGEMAKER_BIND_TO_PORT": str(server.port),
        "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BATCH_STRATEGY": "SingleRecord",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "2",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "3",
    }
