"""The two templates say what the mapping, the store and the design say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from accession.artifacts.store import BACKUP_TAG
from accession.cli.deploy import TEMPLATES

ALL = sorted(TEMPLATES.glob("*.yaml"))


class Loader(yaml.SafeLoader):
    """Reads !Ref and friends as {"!Ref": …}."""


def construct(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {f"!{suffix}": loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {f"!{suffix}": loader.construct_sequence(node)}


Loader.add_multi_constructor("!", construct)


def read(name: str) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load((TEMPLATES / name).read_text(), Loader)
    return template


@pytest.mark.parametrize("template", ALL, ids=lambda path: path.name)
def test_cfn_lint_has_nothing_to_say(template: Path) -> None:
    cfn_lint = Path(sys.executable).with_name("cfn-lint")
    command: list[str | Path] = [cfn_lint, "--non-zero-exit-code", "informational", template]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bucket_is_versioned_encrypted_closed_and_kept() -> None:
    resources = read("artifacts.yaml")["Resources"]
    bucket = resources["Bucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["Properties"]["PublicAccessBlockConfiguration"]) == 4
    [statement] = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(statement["Resource"]) == 2  # the bucket and its objects


def test_backups_and_old_versions_go_after_30_days() -> None:
    rules = {
        r["Id"]: r
        for r in read("artifacts.yaml")["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    }
    backups = rules["backups-30-days"]
    [tag] = backups["TagFilters"]
    assert f"{tag['Key']}={tag['Value']}" == BACKUP_TAG  # what the store puts on the backups it uploads
    assert backups["ExpirationInDays"] == 30
    # Expiry leaves the data as an old version: without this the hashes in a backup would live twice as long.
    assert backups["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    old = rules["old-versions-30-days"]
    assert old["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert not {"TagFilters", "Prefix", "ExpirationInDays"} & set(old)  # current objects, the audit, stay
    assert {rule["Status"] for rule in rules.values()} == {"Enabled"}


def test_policies_have_no_star_action_and_no_star_resource() -> None:
    resources = read("artifacts.yaml")["Resources"].values()
    policies = [one for one in resources if one["Type"] == "AWS::IAM::ManagedPolicy"]
    assert len(policies) == 4
    for policy in policies:
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            bare = statement["!If"][1] if "!If" in statement else statement
            actions = bare["Action"] if isinstance(bare["Action"], list) else [bare["Action"]]
            assert all("*" not in action for action in actions)
            assert bare["Resource"] != "*"


def test_object_lock_is_off_unless_days_are_given() -> None:
    template = read("artifacts.yaml")
    assert template["Parameters"]["ObjectLockDays"]["Default"] == 0
    bucket = template["Resources"]["Bucket"]["Properties"]
    condition, on, off = bucket["ObjectLockConfiguration"]["!If"]
    assert (condition, off) == ("HasLock", {"!Ref": "AWS::NoValue"})
    assert on["Rule"]["DefaultRetention"] == {"Mode": {"!Ref": "ObjectLockMode"}, "Days": {"!Ref": "ObjectLockDays"}}
    assert bucket["ObjectLockEnabled"]["!If"][:2] == ["HasLock", True]
