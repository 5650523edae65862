"""Run MiniStack as a child process: S3, DynamoDB, CloudFormation, IAM and STS on one loopback port.

MiniStack pins an older botocore than ours, so it is installed in an environment of its own and never imported. It ends
when this process ends.
"""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accession.errors import AccessionError

START_SECONDS = 30.0  # a start takes 0.5 s on two idle cores; a machine under full load still gets there
STOP_SECONDS = 5.0
ATTEMPTS = 3  # another process may take the free port that we chose before MiniStack binds it
SERVICES = "s3,dynamodb,cloudformation,iam,sts"

# The child reads from a pipe and ends when the pipe closes. The kernel closes it however we end: return, exception,
# Ctrl-C or SIGKILL. This works outside Linux too, and leaves no process group to hunt down.
_CHILD = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
from ministack.app import main
sys.argv = ["ministack"]
main()
"""


@dataclass(frozen=True)
class MiniStack:
    """A running MiniStack: its address, and the environment that points boto3 at it."""

    endpoint: str
    region: str
    pid: int
    log: Path

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that make boto3, the AWS CLI and Airflow's hooks talk to this MiniStack alone."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AIRFLOW_CONN_AWS_DEFAULT": "aws://",
            # A proxy cannot reach our loopback. Every client reads the lower-case spelling.
            "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1"))),
        }

    def take_environ(self) -> None:
        """Point this process and its children at this MiniStack, whatever profile or endpoint was set before."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(self.environ | {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull})


@contextlib.contextmanager
def start_ministack(
    *,
    port: int | None = None,
    persist: Path | None = None,
    log: Path | None = None,
    region: str = "us-east-1",
    enforce_iam: bool = False,
) -> Iterator[MiniStack]:
    """Run MiniStack on 127.0.0.1 until the block ends, however it ends. Raises AccessionError if it does not start.

    Without `port` a free one is chosen. State is in memory, or in the folder `persist`. The log goes to the file `log`,
    or to a temporary folder that is removed at the end. With `enforce_iam` policies are enforced as on AWS.
    """
    with tempfile.TemporaryDirectory(prefix="accession-ministack-") as scratch:
        log = log or Path(scratch) / "ministack.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = _child_environ(Path(scratch), persist, region) | {"AUTH": str(enforce_iam).lower()}
        process, port = _start(port, environ, log)
        try:
            yield MiniStack(endpoint=f"http://127.0.0.1:{port}", region=region, pid=process.pid, log=log)
        finally:
            _stop(process, save=persist is not None)


def _start(port: int | None, environ: dict[str, str], log: Path) -> tuple[subprocess.Popen[bytes], int]:
    for attempt in range(1 if port else ATTEMPTS):
        chosen = port or _find_free_port()
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 -- our own interpreter, no shell
                [str(_find_interpreter()), "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ | {"GATEWAY_PORT": str(chosen)},
                start_new_session=True,  # Ctrl-C must reach us alone; we end the child
            )
        try:
            if _wait_until_ready(process, chosen):
                return process, chosen
        except BaseException:
            _stop(process)
            raise
        _stop(process)
        if attempt == ATTEMPTS - 1 or port:
            break
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
    raise AccessionError(f"MiniStack did not start on port {chosen}: {tail[0]} (full log: {log}).")


def _find_interpreter() -> Path:
    beside = Path(sys.executable).with_name("ministack")
    script = str(beside) if beside.exists() else shutil.which("ministack")
    if not script:
        raise AccessionError("There is no ministack command beside this Python: run `make setup`.")
    return Path(script).resolve().with_name("python")


def _child_environ(scratch: Path, persist: Path | None, region: str) -> dict[str, str]:
    """Return an environment without credentials of ours and without PYTHONPATH, which could name a plugin folder."""
    state = persist or scratch / "state"
    keep = "1" if persist else "0"
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": region,
        "SERVICES": SERVICES,
        "IOT_MTLS_ENABLED": "0",  # else it listens on port 8883 of every interface
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{scratch}/no-docker.sock",  # else it removes containers of another MiniStack at start
        "PERSIST_STATE": keep,
        "STATE_DIR": str(state),
        "S3_PERSIST": keep,
        "S3_DATA_DIR": str(state / "s3"),
        "LOG_LEVEL": "WARNING",
    }


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Return True once the child answers, False if it ends or does not answer in time."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)  # ignores proxies
        try:
            connection.request("GET", "/_ministack/ready")
            if connection.getresponse().status == 200:
                # If another process took the port, that one answered, and our child is dead.
                return process.poll() is None
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes], *, save: bool = False) -> None:
    """End the child. It is asked first if it has state to save, and killed at once otherwise."""
    if save and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    process.kill()
    process.wait()
    if process.stdin:
        process.stdin.close()
