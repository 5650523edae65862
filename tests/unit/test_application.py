"""The last step of the guide: the application answers."""

import http.server
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from accession.errors import VerificationError
from accession.run import ask_application
from accession.run.lookups import APP_TRIES


class Application(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.send_response(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def application() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_below_400_is_enough(application: str) -> None:
    Application.answers = [204]
    assert ask_application(application) == 204


def test_an_application_that_comes_up_late_is_asked_again(application: str) -> None:
    Application.answers = [503, 502, 200]
    waits: list[float] = []
    assert ask_application(application, sleep=waits.append) == 200
    assert waits == [2.0, 4.0]


@pytest.mark.parametrize("status", [404, 500])
def test_an_application_that_fails_is_named_with_its_status(application: str, status: int) -> None:
    Application.answers = [status]
    waits: list[float] = []
    with pytest.raises(VerificationError, match=f"answers {status}"):
        ask_application(application, sleep=waits.append)
    assert len(waits) == APP_TRIES - 1


def test_nobody_at_the_url_is_said() -> None:
    with pytest.raises(VerificationError, match="does not answer"):
        ask_application("http://127.0.0.1:9/", sleep=lambda _: None)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:x/"])
def test_an_address_that_is_none_is_said(url: str) -> None:
    with pytest.raises(VerificationError, match="does not answer"):
        ask_application(url, sleep=lambda _: None)


def test_what_may_be_secret_in_an_address_is_not_told() -> None:
    with pytest.raises(VerificationError, match=r"The application at http://127\.0\.0\.1:9/health does") as raised:
        ask_application("http://127.0.0.1:9/health?token=s3cret", sleep=lambda _: None)
    assert "s3cret" not in str(raised.value)
