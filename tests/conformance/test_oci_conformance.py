"""The official OCI Distribution conformance suite, everything on, judged by the results it writes.

Its exit status is not asked: it is 0 also when it could not start. Each API and each data set is a test of its own name
in the failure's text, with what the suite said about it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.cluster import Cluster
from support.programs import run
from support.server import Server

ALLOWED = {"Sparse Manifests": "Disabled"}  # off in the suite's own defaults for every version
LEAST = {"apis": 28, "data": 24}  # what the pinned suite reports on: fewer means that something was not asked


def read_results(text: str) -> dict[str, dict[str, str]]:
    """The `apis` and `data` maps of results.yaml, which are flat."""
    sections: dict[str, dict[str, str]] = {}
    for block in re.split(r"^(?=\w+:)", text, flags=re.MULTILINE):
        title, _, lines = block.partition(":")
        sections[title] = dict(re.findall(r"^  ([^:\n]+): (\w+)$", lines, flags=re.MULTILINE))
    return {"apis": sections.get("apis", {}), "data": sections.get("data", {})}


pytestmark = [pytest.mark.conformance, pytest.mark.needs("conformance")]


@pytest.mark.parametrize("store", ["filesystem", "s3"])
def test_the_official_suite_passes_in_full(
    store: str, request: pytest.FixtureRequest, repository: str, tmp_path: Path
) -> None:
    server: Server = request.getfixturevalue("server" if store == "filesystem" else "s3_server")
    pass_in_full(server.address, server.password(), repository, tmp_path)


@pytest.mark.needs("weed", "nginx", "postgres")
def test_the_official_suite_passes_in_full_against_three_nodes_that_share_each_upload(
    cluster: Cluster, repository: str, tmp_path: Path
) -> None:
    """Behind nginx, on S3 and PostgreSQL: no node sees all requests of an upload."""
    pass_in_full(cluster.address, cluster.password(), repository, tmp_path)
    uploads = [nodes for path, nodes in cluster.nodes_of_uploads().items() if repository in path]
    assert set().union(*uploads) == {node.address for node in cluster.nodes}
    assert all(len(nodes) > 1 for nodes in uploads)
    assert len(uploads) > 20


def pass_in_full(address: str, password: str, repository: str, results_in: Path) -> None:
    settings = {
        "OCI_VERSION": "dev",
        "OCI_REGISTRY": address,
        "OCI_TLS": "disabled",
        "OCI_REPO1": f"{repository}/one",
        "OCI_REPO2": f"{repository}/two",
        "OCI_USERNAME": "AWS",
        "OCI_PASSWORD": password,
        "OCI_RESULTS_DIR": str(results_in),
    }
    settings |= {f"OCI_API_BLOBS_{name}": "true" for name in ("ATOMIC", "DELETE", "DIGEST_HEADER", "MOUNT_ANONYMOUS")}
    settings |= {"OCI_API_BLOBS_UPLOAD_CANCEL": "true", "OCI_API_REFERRER": "true"}
    settings |= {f"OCI_API_MANIFESTS_{name}": "true" for name in ("ATOMIC", "DELETE", "DIGEST_HEADER", "TAG_PARAM")}
    settings |= {f"OCI_API_TAGS_{name}": "true" for name in ("ATOMIC", "DELETE", "LIST")}
    try:
        run("conformance", extra=settings, cwd=results_in, timeout=240)
    except AssertionError as failed:
        said = str(failed)[-4000:]
    else:
        said = ""

    results = read_results((results_in / "results.yaml").read_text())
    for section, least in LEAST.items():
        assert len(results[section]) >= least, f"the suite reported only {sorted(results[section])}"
    wrong = {
        name: status
        for section in results.values()
        for name, status in section.items()
        if status != ALLOWED.get(name, "Pass")
    }
    assert not wrong, f"{wrong}\n{failures(results_in / 'junit.xml')}\n{said}"


def failures(junit: Path) -> str:
    """What the suite said of each test that it did not pass."""
    lines = []
    for case in ET.parse(junit).getroot().iter("testcase"):  # noqa: S314 - written by the suite we ran
        if case.get("status") not in ("passed", "skipped"):
            lines.append(f"{case.get('name')}: {(case.findtext('system-out') or '').strip()[:600]}")
    return "\n".join(lines)
