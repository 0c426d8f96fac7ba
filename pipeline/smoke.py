"""The smoke gate: runs the image as production would and holds the running container to what tests/smoke asks of it."""

import os
import signal
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from pipeline import programs
from pipeline.artifacts import Finding, Limits, Verdict, accepted_branch
from pipeline.engine import ACCEPTED, Engine
from pipeline.errors import SmokeError
from pipeline.progress import say

HOME = Path(__file__).resolve().parent.parent


def smoke(reference: str, *, limits: Limits, engine: Engine, probes: Path | None = None) -> Verdict:
    """Runs tests/smoke against the image under the production contract; `probes` are replayed like its samples.

    Returns a verdict about the image's id; `measured` holds what the tests recorded, such as seconds to ready and
    `wire.<output>.max_abs`.

    Raises:
        SmokeError: the image is not there, or a test failed; the message lists each with what it saw.
    """
    image = engine.find(reference)
    if image is None:
        raise SmokeError(f"There is no image {reference}. `inv assemble --model NAME` makes one.")
    with tempfile.TemporaryDirectory(prefix="torchyard-") as folder:
        report = Path(folder) / "report.xml"
        log = _run_tests(image.digest, limits, engine.info().address, report, probes)
        if not report.exists():
            raise SmokeError(f"{reference}: the smoke tests did not run:\n{log}")
        suite = ElementTree.parse(report).getroot()[0]  # noqa: S314 (pytest wrote it just now)
    findings = tuple(_findings(suite))
    if findings or not int(suite.get("tests", "0")):
        listing = "\n".join(f"  {finding.rule}: {finding.message}" for finding in findings)
        raise SmokeError(f"{reference} does not behave under the production contract:\n{listing or log}")
    measured = {item.get("name", ""): float(item.get("value", "nan")) for item in suite.iter("property")}
    accepted = accepted_branch(image.labels.get(ACCEPTED, ""))
    return Verdict(gate="smoke", digest=image.digest, against="", findings=accepted, measured=measured)


def _run_tests(digest: str, limits: Limits, address: str, report: Path, probes: Path | None) -> str:
    """Runs pytest in a process of its own, passing its lines on; returns them."""
    command = [sys.executable, "-m", "pytest", "tests/smoke", "--verbose", "--no-header", "--tb=short"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", f"--image={digest}"]
    command += [f"--memory={limits.memory}", f"--cpus={limits.cpus}", f"--pids={limits.pids}"]
    command += [f"--probes={probes.absolute()}"] if probes else []
    # Ryuk, testcontainers' reaper, comes from a registry; every container here is removed by its own fixture.
    environment = os.environ | {"TESTCONTAINERS_RYUK_DISABLED": "true", "DOCKER_HOST": address}
    # Its lines are progress, and come as they are written.
    environment["PYTHONUNBUFFERED"] = "1"
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(f"  {line}")
        if "::" in line:
            say(lines[-1])

    # pytest removes its containers when it is interrupted as by Ctrl-C.
    programs.run(command, cwd=HOME, env=environment, on_line=on_line, ends_at=signal.SIGINT)
    return "\n".join(lines)


def _findings(suite: ElementTree.Element) -> list[Finding]:
    findings = []
    for case in suite.iter("testcase"):
        for problem in (*case.findall("failure"), *case.findall("error")):
            name = case.get("name", "").removeprefix("test_").replace("_", "-")
            message = "\n    ".join([problem.get("message", ""), *_last_lines(problem.text)])
            fix = "the container's log is in the test's output above"
            findings.append(
                Finding(rule=name, level="error", where=case.get("classname", ""), message=message, fix=fix)
            )
    return findings


def _last_lines(text: str | None) -> list[str]:
    return [line for line in (text or "").splitlines() if line.startswith("E ")][:8]
