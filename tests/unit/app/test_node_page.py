"""The epoch page of a node whose metadata services are elsewhere, before the process that keeps it is up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.app import processes as serving
from proxy.config.loader import load
from proxy.metadata.client.epochs import Epochs, now
from proxy.metadata.cluster.subscriber import revoke_lease
from proxy.runtime import supervisor
from proxy.runtime.data_directory import open_data
from proxy.runtime.supervisor import ProcessRole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node-epochs"


def test_a_page_that_nobody_keeps_says_nothing_whatever_an_earlier_run_left_in_it(path: Path) -> None:
    revoke_lease(path)
    page = Epochs(path)
    assert not page.lease_valid()
    page.grant_lease(now() + 10**12)  # of before the machine started anew, with its clock
    revoke_lease(path)
    assert not page.lease_valid()
    page.close()


def test_a_page_that_another_process_keeps_is_left_to_it(path: Path) -> None:
    page = Epochs(path)
    assert page.claim()
    page.grant_lease(now() + 10**12)
    revoke_lease(path)
    assert page.lease_valid()
    page.close()


def test_no_worker_begins_with_a_page_that_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "server.data": str(tmp_path),
        "server.listen": "127.0.0.1:0",
        "metadata.url": "http://127.0.0.1:1",
        "metadata.secret": "a-shared-secret-of-some-length",
    }
    config = load(None, given, environ={})
    spoke: list[bool] = []

    def supervise(roles: Sequence[ProcessRole], **more: Any) -> int:
        page = Epochs(open_data(config).node_epochs)
        spoke.append(page.lease_valid())
        page.close()
        more["stopping"]()
        return 0

    monkeypatch.setattr(supervisor, "supervise", supervise)
    monkeypatch.setattr("proxy.app.keys.master_keys", lambda *_: None)
    monkeypatch.setattr("proxy.app.stores.claim_store", lambda *_: "")
    monkeypatch.setattr("proxy.observe.share_metrics", lambda *_: None)
    monkeypatch.setattr("proxy.observe.configure_log", lambda *_: None)
    assert serving.serve(config, metadata=False, workers=True, say=lambda line: None) == 0
    assert spoke == [False]
