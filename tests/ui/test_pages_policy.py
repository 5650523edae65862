"""The audit pages need the policy that `make deploy` makes for them, and nothing else."""

from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from accession.cli.deploy import deploy_stacks
from accession.cli.sample import write_sample
from accession.mapping import MAPPINGS, load_mapping
from conftest import Library, LocalAws
from driver import Driver
from permissions import Recorder, find_denied, read_policy, shrink
from ui.test_page import ROUTES, app, open_site

__all__ = ["app"]  # a fixture
KEY = "arn:aws:kms:us-east-1:000000000000:key/11111111-1111-1111-1111-111111111111"


def test_every_page_needs_the_pages_policy_and_nothing_else(
    aws: LocalAws, app: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = f"p{uuid4().hex[:8]}"
    made = deploy_stacks(
        load_mapping(MAPPINGS / "book_library.yaml"), environment, boto3.Session(), options={"KeyArn": KEY}
    )
    driver = Driver(Library(aws, environment, made.bucket), write_sample(tmp_path / "site.db"), max_rejects=2)
    assert driver.run().status == "verified"
    with Recorder(aws.endpoint, {made.bucket: KEY}) as recorder, recorder.listening():
        site = open_site(app, driver, monkeypatch)
        for route in ROUTES:
            site.get(route, status=307 if route == "/" else 200)
        needs = recorder.take()
    document = read_policy(made.pages_policy)
    assert find_denied(document, needs) == set()
    assert [what for what, less in shrink(document) if not find_denied(less, needs)] == []
