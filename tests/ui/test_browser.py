"""What a person does in Airflow's UI, in a real browser, against what `make ui` starts. Makes docs/screenshots.

The tests follow one another as a day would: each builds on what the ones before have left.
"""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect, sync_playwright

from conftest import REPO

pytestmark = [pytest.mark.ui, pytest.mark.timeout(600)]

DAG = "migrate_book_library"
SHOTS = REPO / "docs" / "screenshots"
CHROMIUM = "/usr/bin/chromium"
# Without these it calls home at every start, and the sandbox is not for root.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_SECONDS = 180
RUN_SECONDS = 240


@dataclass
class Day:
    """A running `make ui`, a browser that is logged in, and the Airflow runs so far by what became of them."""

    process: subprocess.Popen[str]
    folder: Path
    url: str
    user: str
    password: str
    page: Any
    stranger: Any
    runs: dict[str, str]
    application: str  # the URL of an application that has no page

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def ask(self, path: str) -> Any:
        answer = self.page.request.get(f"{self.url}/api/v2{path}")
        assert answer.ok, answer.text()
        return answer.json()

    def trigger(self, name: str, **conf: Any) -> None:
        answer = self.page.request.post(
            f"{self.url}/api/v2/dags/{DAG}/dagRuns", data={"conf": {"max_rejects": 2} | conf, "logical_date": None}
        )
        assert answer.ok, answer.text()
        self.runs[name] = answer.json()["dag_run_id"]

    def path(self, name: str) -> str:
        return f"/dags/{DAG}/runs/{quote(self.runs[name], safe='')}"

    def wait(self, name: str, task: str | None, *states: str) -> str:
        """Until the run, or a task of it, is in one of `states`; which one."""
        where = f"/dags/{DAG}/dagRuns/{quote(self.runs[name])}" + (f"/taskInstances/{task}" if task else "")
        deadline = time.monotonic() + RUN_SECONDS
        while (state := self.ask(where)["state"]) not in states:
            assert time.monotonic() < deadline, f"{task or 'the run'} is still {state}"
            time.sleep(1)
        return str(state)

    def answer(self, name: str, button: str) -> None:
        """Approve or Reject on the page of the task; not in the first second, when an answer would be lost."""
        self.wait(name, "approve", "awaiting_input")
        time.sleep(3)
        self.open(f"{self.path(name)}/tasks/approve/required_actions")
        with self.page.expect_response(lambda answer: answer.request.method == "PATCH") as answered:
            self.page.get_by_role("button", name=button, exact=True).click()
        assert answered.value.ok, answered.value.text()
        self.wait(name, "approve", "success")

    def open_audit(self, name: str) -> Any:
        """The audit tab of a run; what is in its frame."""
        self.open(f"{self.path(name)}/plugin/audit")
        frame = self.page.frame_locator("iframe")
        frame.locator("main").wait_for()
        return frame

    def audit_path(self, name: str) -> str:
        """The page of a run without Airflow around it, below the prefix."""
        answer = self.page.request.get(
            f"{self.url}/accession/go", params={"dag_id": DAG, "run_id": self.runs[name]}, max_redirects=1
        )
        return str(answer.url).partition("/accession/")[2]

    def shoot(self, name: str) -> None:
        """Keep what is seen."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", animations="disabled")


class Nothing(BaseHTTPRequestHandler):
    """An application that answers 404 to everything."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve_nothing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("ui") / "ui"
    command = [sys.executable, "-m", "accession.cli.ui", "--port", "0", "--folder", str(folder)]
    with (
        serve_nothing() as application,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"ACCESSION_ALLOWED_APP_URLS": application, "ACCESSION_ALLOWED_BUCKETS": "theirs"},
        ) as process,
    ):
        try:
            url, user, password = read_access(process)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                page = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light").new_page()
                page.set_default_timeout(60_000)
                stranger = browser.new_context().new_page()
                yield Day(process, folder, url, user, password, page, stranger, {}, application)
                browser.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def read_access(process: subprocess.Popen[str]) -> tuple[str, str, str]:
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if found := re.search(r"(http://\S+)\s+user (\S+)\s+password (\S+)", line):
            return found[1], found[2], found[3]
    raise AssertionError(f"make ui ended: {said}")


def test_a_person_logs_in(day: Day) -> None:
    day.open("/")
    day.page.fill("input[name=username]", day.user)
    day.page.fill("input[name=password]", day.password)
    day.page.click("button[type=submit]")
    day.page.get_by_role("link", name="Dags").first.wait_for()


def test_a_bad_value_in_the_form_is_refused_with_its_reason(day: Day) -> None:
    day.open(f"/dags/{DAG}")
    day.page.click("[data-testid=trigger-dag-button]")
    form = day.page.get_by_role("dialog")
    form.get_by_role("button", name="2. Target").click()
    day.page.fill("input[name=element_environment]", "no such!")
    form.get_by_role("button", name="Trigger", exact=True).click()
    form.get_by_text("'no such!' does not match").first.wait_for()
    assert day.ask(f"/dags/{DAG}/dagRuns")["total_entries"] == 0


def test_the_form_offers_the_buckets_that_the_deployment_allows(day: Day) -> None:
    day.open(f"/dags/{DAG}")
    day.page.click("[data-testid=trigger-dag-button]")
    form = day.page.get_by_role("dialog")
    form.get_by_role("button", name="2. Target").click()
    day.page.locator("#element_bucket").click()
    options = day.page.get_by_role("option")
    expect(options).to_have_text(["null", re.compile("^accession-"), "theirs"])  # null: the configured one
    options.last.click()
    expect(day.page.locator("#element_bucket")).to_contain_text("theirs")


def test_a_run_is_triggered_by_the_form(day: Day) -> None:
    day.open(f"/dags/{DAG}")
    day.page.click("[data-testid=trigger-dag-button]")
    form = day.page.get_by_role("dialog")
    form.get_by_role("button", name="3. Policies").click()
    day.page.fill("input[name=element_max_rejects]", "2")
    day.page.keyboard.press("Tab")
    day.shoot("trigger")
    with day.page.expect_response(re.compile("/dagRuns$")) as answered:
        form.get_by_role("button", name="Trigger", exact=True).click()
    made = answered.value.json()
    assert made["conf"]["max_rejects"] == 2
    day.runs["verified"] = made["dag_run_id"]


def test_its_audit_tab_tells_how_far_it_is_and_then_the_verdict(day: Day) -> None:
    day.wait("verified", "backup", "success")
    frame = day.open_audit("verified")
    frame.get_by_text(re.compile("Progress|All is well")).first.wait_for()
    assert day.wait("verified", None, "success", "failed") == "success"
    frame = day.open_audit("verified")
    frame.get_by_text("All is well: 718 items are in the tables and proved equal to the source.").wait_for()
    day.shoot("audit-run")


def test_rejects_are_filtered_in_the_tab(day: Day) -> None:
    frame = day.open_audit("verified")
    frame.get_by_role("link", name="Search all of them").click()
    frame.get_by_text("2 of user_book").wait_for()
    frame.get_by_label("Search").fill("spring")
    frame.get_by_role("button", name="Filter").click()
    frame.get_by_text("1 of user_book").wait_for()
    assert frame.get_by_text("some day in spring").count() == 1
    assert frame.get_by_text("refers to no book").count() == 0


def test_an_id_is_looked_up_both_ways_in_the_tab(day: Day) -> None:
    frame = day.open_audit("verified")
    frame.get_by_label("Old id or UUID").fill("17")
    frame.get_by_role("button", name="Look up").click()
    row = frame.get_by_role("row", name=re.compile("^book 17 "))
    new_id = row.locator("code").nth(1).inner_text()
    frame.get_by_label("Old id or UUID").fill(new_id)
    frame.get_by_role("button", name="Look up").click()
    expect(frame.get_by_role("row")).to_have_count(2)  # the heading is one
    expect(frame.get_by_role("row", name=re.compile(f"^book 17 {new_id}"))).to_be_visible()


def test_report_links_to_the_audit_and_the_audit_to_the_run(day: Day) -> None:
    day.open(f"{day.path('verified')}/tasks/report/details")
    day.page.get_by_role("link", name="Audit of this run").click()
    frame = day.page.frame_locator("iframe")
    frame.get_by_role("link", name="Open the run in Airflow").click()
    day.page.wait_for_url(re.compile(f"{re.escape(day.path('verified'))}/?$"))


def test_a_task_log_tells_what_was_written(day: Day) -> None:
    day.open(f"{day.path('verified')}/tasks/report")
    day.page.get_by_text(re.compile(r"VERIFIED")).first.wait_for()
    day.shoot("log")


def test_the_audit_follows_the_theme_of_airflow(day: Day) -> None:
    frame = day.open_audit("verified")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = frame.locator("body").evaluate(f"() => {ground}")
    day.page.evaluate("() => document.documentElement.classList.replace('light', 'dark')")
    dark = frame.locator("body").evaluate(f"() => {ground}")
    assert (light, dark) == ("rgb(251, 250, 247)", "rgb(21, 24, 27)")


def test_the_audit_fits_a_narrow_window(day: Day) -> None:
    day.page.set_viewport_size({"width": 390, "height": 844})
    try:
        for path in ("", day.audit_path("verified")):
            day.open(f"/accession/{path}")
            wide = day.page.evaluate("() => document.documentElement.scrollWidth")
            assert wide <= 390
        day.shoot("audit-narrow")
    finally:
        day.page.set_viewport_size({"width": 1280, "height": 860})


def test_a_person_sees_the_change_set_and_rejects_it(day: Day) -> None:
    with closing(sqlite3.connect(day.folder / "data" / "site.db")) as connection, connection:
        connection.execute("UPDATE book SET genre = 'A genre of my own' WHERE id = 17")
    day.trigger("rejected", approval="always")
    day.wait("rejected", "approve", "awaiting_input")
    day.open(f"{day.path('rejected')}/tasks/approve/required_actions")
    day.page.get_by_text("1 item to write, 2 rows left out").first.wait_for()
    assert "A genre of my own" in day.page.content()
    day.answer("rejected", "Reject")
    assert day.wait("rejected", None, "success", "failed") == "failed"
    frame = day.open_audit("rejected")
    frame.get_by_text("A person said no to the plan: nothing was written.").wait_for()
    frame.get_by_text(f"rejected by {day.user}").wait_for()


def test_a_person_approves(day: Day) -> None:
    with closing(sqlite3.connect(day.folder / "data" / "site.db")) as connection, connection:
        connection.execute("DELETE FROM user_book WHERE id BETWEEN 50 AND 52")
        connection.execute(
            "INSERT INTO user (username, email, password_hash) VALUES ('new.reader', 'n@example.org', 'x')"
        )
    day.trigger("approved", approval="always")
    day.wait("approved", "approve", "awaiting_input")
    time.sleep(3)
    day.open(f"{day.path('approved')}/tasks/approve/required_actions")
    day.page.get_by_text("new.reader").first.wait_for()
    assert "n@example.org" not in day.page.content()
    day.shoot("approval")
    day.answer("approved", "Approve")
    assert day.wait("approved", None, "success", "failed") == "success"
    frame = day.open_audit("approved")
    frame.get_by_text(f"approved by {day.user}").first.wait_for()


def test_a_run_that_fails_after_writing_is_rolled_back_and_says_so(day: Day) -> None:
    with closing(sqlite3.connect(day.folder / "data" / "site.db")) as connection, connection:
        connection.execute("UPDATE book SET genre = 'Another genre' WHERE id = 18")
    day.trigger("rolled back", app_url=f"{day.application}no-such-page")
    assert day.wait("rolled back", None, "success", "failed") == "failed"
    frame = day.open_audit("rolled back")
    frame.get_by_text("The run failed, and all that it wrote was undone").wait_for()
    frame.get_by_text("answers 404").first.wait_for()


def test_the_list_of_runs_is_in_the_browse_menu(day: Day) -> None:
    day.open("/")
    day.page.get_by_role("button", name="Browse").or_(day.page.get_by_text("Browse", exact=True)).first.click()
    day.page.get_by_role("menuitem", name="Accession").click()
    frame = day.page.frame_locator("iframe")
    for status in ("verified", "rejected", "rolled back"):
        frame.locator(".status", has_text=status).first.wait_for()
    day.shoot("audit-runs")


def test_a_stranger_sees_no_audit(day: Day) -> None:
    for path in ("", day.audit_path("verified")):
        assert day.stranger.request.get(f"{day.url}/accession/{path}").status == 401


def test_ctrl_c_ends_everything(day: Day) -> None:
    started = find_family(day.process.pid)
    assert len(started) > 4
    day.process.send_signal(signal.SIGINT)
    assert day.process.wait(60) == 0
    time.sleep(1)
    assert [pid for pid in started if is_alive(pid)] == []


def find_family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
