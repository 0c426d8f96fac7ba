"""The linters of workflows: each passes the ones of this project, and refuses what was planted in a copy."""

import shutil
from pathlib import Path

import pytest

import tasks
from pipeline import errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of .github."""
    return shutil.copytree(tasks.HOME / ".github", tmp_path / ".github")


def _plant(folder: Path, old: str, new: str) -> None:
    workflow = folder / "workflows" / "ci.yml"
    text = workflow.read_text()
    assert old in text
    workflow.write_text(text.replace(old, new))


def test_the_workflows_of_this_project_pass(folder: Path) -> None:
    tasks._lint_workflows(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pull_request:", "pul_request:", 'unknown Webhook event "pul_request"'),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.40", 'label "ubuntu-24.40" is unknown'),
        ("run: ./inv test --only lint", "run: ./inv test --only $KIND", "SC2086"),
    ],
)
def test_actionlint_refuses(folder: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, message: str) -> None:
    _plant(folder, old, new)
    with pytest.raises(errors.TestsFailed, match="actionlint found something"):
        tasks._lint_workflows(folder)
    assert message in capfd.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("          persist-credentials: false", "          fetch-depth: 1", "artipacked"),
        ("3d3c42e5aac5ba805825da76410c181273ba90b1 #", "v7 #", "unpinned-uses"),
        ("permissions: {}", "permissions: write-all", "excessive-permissions"),
        ("pull_request:", "pull_request_target:", "dangerous-triggers"),
    ],
)
def test_zizmor_refuses(folder: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, rule: str) -> None:
    _plant(folder, old, new)
    with pytest.raises(errors.TestsFailed, match="zizmor found something"):
        tasks._lint_workflows(folder)
    assert f"[{rule}]" in capfd.readouterr().out
