"""Lines that leave the machine without TLS: which are refused at start, and by which word they are allowed."""

from __future__ import annotations

import pytest

from proxy.blob.kms import Kms, KmsEndpoint
from proxy.config import loader
from proxy.config.loader import ConfigError
from proxy.config.plaintext import is_plaintext_postgresql
from proxy.storage.s3.bucket import Bucket, S3Location

S3 = {"storage.backend": "s3", "storage.bucket": "layers"}
LINKED = S3 | {"storage.sealing": "none", "storage.redirect": True}
KMS = {"keys.key_id": "alias/registry"}


@pytest.mark.parametrize(
    ("flags", "section"),
    [
        (S3 | {"storage.endpoint": "http://s3.internal:8333"}, "storage"),
        (S3 | {"storage.endpoint": "http://10.0.0.5"}, "storage"),
        (LINKED | {"storage.public_endpoint": "http://s3.example"}, "storage"),
        (S3 | {"storage.endpoint": "http://127.0.0.1:80@s3.example"}, "storage"),
        (KMS | {"keys.endpoint": "http://kms.internal:4566"}, "keys"),
        ({"metadata.database": "postgresql://wharfage:secret@db/wharfage"}, "metadata"),
        ({"metadata.advertise": "http://10.0.0.5:5050"}, "metadata"),
    ],
)
def test_a_line_without_tls_leaves_the_machine_by_ones_own_word_only(flags: dict[str, object], section: str) -> None:
    """The refusal names the setting, what to do, and the word; no password is in it."""
    with pytest.raises(ConfigError, match=rf"^\[{section}\] .*plaintext = true") as refused:
        loader.load(flags=flags, environ={})
    assert "secret@" not in str(refused.value)
    loader.load(flags=flags | {f"{section}.plaintext": True}, environ={})


def test_nodes_show_each_other_the_secret_over_tls_or_by_ones_own_word_only() -> None:
    flags: dict[str, object] = {"server.advertise": "http://10.0.0.5:5000", "metadata.secret": "0123456789abcdef"}
    with pytest.raises(ConfigError, match=r"^\[server\] advertise: .*plaintext = true"):
        loader.load(flags=flags, environ={})
    assert loader.load(flags=flags | {"metadata.plaintext": True}, environ={}).server.advertise
    for url in ("https://10.0.0.5:5000", "http://127.0.0.1:5000"):
        assert loader.load(flags=flags | {"server.advertise": url}, environ={}).server.advertise == url


@pytest.mark.parametrize("secret", ["", "of-15-character"])
def test_a_node_that_others_may_ask_needs_a_secret(secret: str) -> None:
    with pytest.raises(ConfigError, match=r"^\[server\] advertise: .*16 characters"):
        loader.load(flags={"server.advertise": "https://node1:5000", "metadata.secret": secret}, environ={})


@pytest.mark.parametrize(
    "flags",
    [
        S3,
        S3 | {"storage.endpoint": "https://s3.internal:8333"},
        S3 | {"storage.endpoint": "http://127.0.0.1:8333"},
        S3 | {"storage.endpoint": "http://[::1]:8333/"},
        LINKED | {"storage.endpoint": "http://localhost:8333", "storage.public_endpoint": "https://s3.example"},
        KMS,
        KMS | {"keys.endpoint": "http://127.0.0.1:4566"},
        {"metadata.database": "postgresql:///wharfage"},
        {"metadata.database": "postgresql://wharfage@db/wharfage?sslmode=verify-full"},
    ],
)
def test_a_line_under_tls_or_on_this_machine_needs_no_word(flags: dict[str, object]) -> None:
    loader.load(flags=flags, environ={})


@pytest.mark.parametrize(("section", "needs"), [("storage", 'backend = "s3"'), ("keys", "key_id")])
def test_the_word_is_not_given_for_a_line_that_there_is_not(section: str, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"plaintext: goes with .*{needs}"):
        loader.load(flags={f"{section}.plaintext": True}, environ={})


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("postgresql://db/rows", "db"),
        ("postgresql://me:pass@db.example:5432/rows", "db.example"),
        ("postgresql://me@db/rows?sslmode=prefer", "db"),
        ("postgresql://me@db/rows?sslmode=require&sslmode=disable", "db"),
        ("postgresql://127.0.0.1,db2:5433/rows", "db2"),
        ("postgresql:///rows?host=db", "db"),
        ("postgresql://localhost/rows?hostaddr=10.0.0.5", "10.0.0.5"),
        ("postgresql://[fd00::5]:5432/rows", "fd00::5"),
        ("postgresql://127.0.0.1.example/rows", "127.0.0.1.example"),
        ("postgresql://[db/rows", "its host"),
        ("postgresql:///rows?service=other", "the service other, of which this cannot be seen,"),
        ("postgresql:///rows", None),
        ("postgresql://%2Frun%2Fpostgresql/rows", None),
        ("postgresql:///rows?host=/run/postgresql", None),
        ("postgresql://me:p@127.0.0.1:5432/rows", None),
        ("postgresql://localhost,[::1]/rows", None),
        ("postgresql://db/rows?hostaddr=127.0.0.1", None),
        ("postgresql://db/rows?sslmode=require", None),
        ("postgresql://db/rows?sslmode=verify-ca", None),
        ("postgresql://db/rows?sslrootcert=system", None),
        ("postgresql://db/rows?gssencmode=require", None),
    ],
)
def test_a_postgresql_is_reached_as_libpq_reads_its_url(url: str, bare: str | None) -> None:
    """Several hosts, sockets, hosts and addresses as parameters: one bare host is enough to refuse."""
    assert is_plaintext_postgresql(url, {}) == bare


@pytest.mark.parametrize(
    ("environ", "url", "bare"),
    [
        ({"PGSSLMODE": "verify-full"}, "postgresql://db/rows", None),
        ({"PGSSLMODE": "verify-full"}, "postgresql://db/rows?sslmode=allow", "db"),
        ({"PGHOST": "db"}, "postgresql:///rows", "db"),
        ({"PGHOST": "/run"}, "postgresql:///rows", None),
        ({"PGHOSTADDR": "10.0.0.5"}, "postgresql://localhost/rows", "10.0.0.5"),
    ],
)
def test_what_the_url_does_not_say_libpq_takes_from_the_environment(
    environ: dict[str, str], url: str, bare: str | None
) -> None:
    assert is_plaintext_postgresql(url, environ) == bare


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_KMS"])
async def test_an_empty_endpoint_is_aws_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """README has people export AWS_ENDPOINT_URL for the aws command, in the shell from which a server may start."""
    monkeypatch.setenv(name, "http://store.internal")
    for asked in (Kms(KmsEndpoint("alias/a", "us-east-1")), Bucket(S3Location("layers"))):
        found = (await asked._client.get()).meta.endpoint_url
        await asked.close()
        assert found.startswith("https://")
        assert found.endswith(".amazonaws.com")
