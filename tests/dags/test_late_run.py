"""The alert of a late run, as a real scheduler and a real triggerer send it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from deployment import PARTS, start_airflow, wait_until

from accession.cli.sample import write_sample
from conftest import LocalAws, make_library

pytestmark = [pytest.mark.paths, pytest.mark.timeout(600)]

MIGRATE = "migrate_book_library"
TOPIC = "arn:aws:sns:us-east-1:000000000000:alarms"


@contextmanager
def listen_to_sns() -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """An SNS that keeps what is published; its address, and what it was asked."""
    asked: list[dict[str, list[str]]] = []

    class Sns(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            body = b"<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Sns) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_run_that_is_late_is_announced_on_the_topic(aws: LocalAws, tmp_path: Path) -> None:
    library, source = make_library(aws), write_sample(tmp_path / "site.db")
    (tmp_path / "home").mkdir()
    with listen_to_sns() as (address, asked):
        environ = {"ACCESSION_SNS_TOPIC": TOPIC, "AWS_ENDPOINT_URL_SNS": address}
        with start_airflow(tmp_path / "home", environ, parts=(*PARTS, "triggerer")) as airflow:
            conf = {"source": str(source), "environment": library.environment, "bucket": library.bucket}
            run_id = airflow.trigger(MIGRATE, conf | {"max_rejects": 2, "approval": "always"})
            airflow.wait_for(MIGRATE, run_id, "approve", "awaiting_input")
            assert asked == []
            airflow.let_deadline_pass(MIGRATE, run_id)
            wait_until(lambda: bool(asked), "the message is sent", 120)
            airflow.mark_failed(MIGRATE, run_id)
    assert [(one["TargetArn"], one["Subject"]) for one in asked] == [([TOPIC], ["Accession: a run is late"])]
    assert json.loads(asked[0]["Message"][0]) == {
        "default": f"{MIGRATE} run {run_id} has not ended after 48 hours: look at its tasks in Airflow."
    }
