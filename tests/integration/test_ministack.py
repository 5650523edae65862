"""The embedded AWS answers on this machine only, takes settings from us alone, and ends with its owner."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from accession.cli.ministack import start_ministack
from accession.errors import AccessionError

OWNER = """
import sys, time
from accession.cli.ministack import start_ministack
with start_ministack() as ministack:
    print(ministack.pid, flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("as planned")
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("end", ["raise", signal.SIGINT, signal.SIGKILL])
def test_dies_with_its_owner(end: str | signal.Signals) -> None:
    command = [sys.executable, "-c", OWNER, str(end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout
        pid = int(owner.stdout.readline())
        if isinstance(end, signal.Signals):
            assert is_alive(pid)
            owner.send_signal(end)
        owner.wait(20)
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_listens_on_loopback_only() -> None:
    with start_ministack() as ministack:
        inodes = set()
        for link in Path(f"/proc/{ministack.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(link.readlink()))
        listening = []
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{ministack.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    listening.append(fields[1].split(":")[0])
        assert listening == ["0100007F"]


def test_a_taken_port_is_refused_and_its_owner_not_mistaken_for_ours() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AccessionError, match=f"did not start on port {port}"), start_ministack(port=port):
            pass


def test_forgets_by_default_and_keeps_when_told(tmp_path: Path) -> None:
    for _ in range(2):
        with start_ministack() as ministack:
            s3 = boto3.client(
                "s3", endpoint_url=ministack.endpoint, region_name="us-east-1",
                aws_access_key_id="test", aws_secret_access_key="test",
            )  # fmt: skip
            assert s3.list_buckets()["Buckets"] == []
            s3.create_bucket(Bucket="forgotten")
    for expected in ([], ["kept"]):
        with start_ministack(persist=tmp_path) as ministack:
            s3 = boto3.client(
                "s3", endpoint_url=ministack.endpoint, region_name="us-east-1",
                aws_access_key_id="test", aws_secret_access_key="test",
            )  # fmt: skip
            assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == expected
            if not expected:
                s3.create_bucket(Bucket="kept")


def test_nothing_set_before_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.update({"AWS_PROFILE": "prod", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_SESSION_TOKEN": "x"})
    with start_ministack() as ministack:
        ministack.take_environ()
        assert {name for name in os.environ if name.startswith("AWS_")} == {
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_DEFAULT_REGION",
            "AWS_REGION",
            "AWS_EC2_METADATA_DISABLED",
            "AWS_CONFIG_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
        }
        assert os.environ["AWS_ENDPOINT_URL"] == ministack.endpoint
