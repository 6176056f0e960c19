"""Settings: which source wins, and what is said about a wrong one."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.app.router import quotas_of
from proxy.config import loader, settings
from proxy.config.loader import ConfigError
from proxy.model.quotas import ECR_QUOTAS, MIB


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "wharfage.toml"
    file.write_text(text)
    return file


def test_nothing_given_is_the_defaults() -> None:
    """Without file, variables and flags the registry listens on loopback and makes repositories on push."""
    found = loader.load(environ={})
    assert found.server.listen == "127.0.0.1:5000"
    assert found.registry.account == "123456789012"
    assert found.registry.create_on_push is True
    assert found.sources == {}


def test_variable_beats_file_and_flag_beats_variable(tmp_path: Path) -> None:
    """Each later source wins, and the source of each value is known."""
    file = written(tmp_path, "[server]\nworkers = 2\nlisten = '127.0.0.1:1'\ndrain_seconds = 5\n")
    environ = {"WHARFAGE_SERVER_WORKERS": "3", "WHARFAGE_SERVER_LISTEN": "127.0.0.1:2"}
    found = loader.load(file, {"server.listen": "127.0.0.1:3", "server.data": None}, environ)
    assert (found.server.drain_seconds, found.server.workers, found.server.listen) == (5.0, 3, "127.0.0.1:3")
    assert found.sources["server.drain_seconds"] == f"file {file}"
    assert found.sources["server.workers"] == "environment WHARFAGE_SERVER_WORKERS"
    assert found.sources["server.listen"] == "flag --listen"
    assert "server.data" not in found.sources


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    """WHARFAGE_CONFIG stands in for --config."""
    file = written(tmp_path, "[registry]\nregion = 'eu-west-1'\n")
    assert loader.load(environ={"WHARFAGE_CONFIG": str(file)}).registry.region == "eu-west-1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("[server]\nlisen = 'x:1'", "[server] lisen: no such key; did you mean listen?", id="misspelt-key"),
        pytest.param("[sever]\n", "[sever]: no such section; did you mean server?", id="misspelt-section"),
        pytest.param(
            "[server]\nregion = 'x'", "it belongs to [storage] region or [registry] region", id="key-of-another-section"
        ),
        pytest.param("server = 1", "server: must be a section", id="not-a-section"),
        pytest.param("[server]\nworkers = 'two'", "[server] workers: must be a whole number", id="wrong-type"),
        pytest.param("[server]\nworkers = true", "[server] workers: must be a whole number", id="bool-for-number"),
        pytest.param("[server]\nworkers = -1", "[server] workers: must be between 0 and 1024", id="out-of-bounds"),
        pytest.param("[server]\nlisten = '5000'", "[server] listen: must be HOST:PORT", id="not-an-address"),
        pytest.param("[server]\ntrusted_proxies = ['lan']", "neither an address nor a network", id="not-a-network"),
        pytest.param("[server]\ntrusted_proxies = ['10.0.0.999']", "neither an address nor", id="no-such-address"),
        pytest.param("[registry]\naccount = '12'", "[registry] account: must be 12 digits", id="account"),
        pytest.param("[registry]\nsuffix = '.example'", "[registry] suffix: must be a domain", id="suffix"),
        pytest.param("[registry]\nsuffix = 'a.example:5000'", "[registry] suffix: must be a domain", id="suffix port"),
        pytest.param("[log]\nform = 'xml'", "[log] form: must be one of auto, json, console", id="choice"),
        pytest.param("[server\n", "is not TOML", id="not-toml"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """The error begins with the file's name and says key and remedy."""
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        loader.load(file, environ={})
    assert str(refused.value).startswith(str(file))
    assert said in str(refused.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    """A file that was named and is not there is never ignored."""
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        loader.load(tmp_path / "absent.toml", environ={})


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WHARFAGE_SERVER_WORKERS", "many", "WHARFAGE_SERVER_WORKERS: must be a whole number, not 'many'"),
        ("WHARFAGE_REGISTRY_CREATE_ON_PUSH", "perhaps", "must be true or false, not 'perhaps'"),
        ("WHARFAGE_SWEEP_GRACE_HOURS", "-2", "must be between 0 and 8760"),
        ("WHARFAGE_ACCESS_KEY_ID", "AKIA7777777777777777", "WHARFAGE_SECRET_ACCESS_KEY go together"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable: str, value: str, said: str) -> None:
    """A bad value in the environment is an error that names the variable."""
    with pytest.raises(ConfigError) as refused:
        loader.load(environ={variable: value})
    assert said in str(refused.value)


def test_a_bad_secret_is_not_repeated() -> None:
    """An error about a secret value does not hold the value."""
    environ = {"WHARFAGE_ACCESS_KEY_ID": "AKIA7777777777777777", "WHARFAGE_SECRET_ACCESS_KEY": "short sharp"}
    with pytest.raises(ConfigError) as refused:
        loader.load(environ=environ)
    assert "short sharp" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hidden@db.example:5432/rows?sslmode=verify-full",
        "postgresql://db.example:5432/rows?user=me&password=hidden",
        "postgres://me:hid@den@db.example:5432/rows",
    ],
)
def test_of_a_database_only_its_place_is_shown(url: str) -> None:
    """A PostgreSQL's URL is described without user, password and query."""
    environ = {"WHARFAGE_METADATA_DATABASE": url, "WHARFAGE_METADATA_PLAINTEXT": "true"}
    text = loader.describe(loader.load(environ=environ))
    assert "hid" not in text
    assert '://***@db.example:5432/rows"' in text


def test_a_database_that_is_no_postgresql_is_refused_unrepeated() -> None:
    """Another scheme is an error that does not hold the URL, which may hold a password."""
    with pytest.raises(ConfigError, match="begins with postgresql://") as refused:
        loader.load(environ={"WHARFAGE_METADATA_DATABASE": "mysql://me:hidden@db/rows"})
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("ON", True), ("false", False), ("0", False), ("no", False)]
)
def test_a_variable_spells_yes_and_no(text: str, value: bool) -> None:
    """The usual spellings of a boolean are understood."""
    assert loader.load(environ={"WHARFAGE_REGISTRY_CREATE_ON_PUSH": text}).registry.create_on_push is value


def test_a_list_in_a_variable_is_split_at_commas() -> None:
    """Networks are given as 10.0.0.0/8, ::1."""
    found = loader.load(environ={"WHARFAGE_SERVER_TRUSTED_PROXIES": "10.0.0.0/8, ::1"})
    assert found.server.trusted_proxies == ("10.0.0.0/8", "::1")


@pytest.mark.parametrize("rate", ["PutImage=10", "PutImage=0.5/20", "PutImage=none", "BatchGetImage=2000/4000"])
def test_a_rate_names_an_operation_and_how_often(rate: str) -> None:
    """A second, with or without a burst; `none` lifts the preset's."""
    assert loader.load(flags={"quotas.rates": (rate,)}, environ={}).quotas.rates == (rate,)


@pytest.mark.parametrize(
    "rate", ["PutImage", "PutImage=0", "PutImage=10/0", "PutImage=-1", "ecr:PutImage=1", "PutImage=1/"]
)
def test_a_rate_that_could_mean_nothing_or_everything_is_refused(rate: str) -> None:
    """Zero is neither "never" nor "without a limit"."""
    with pytest.raises(ConfigError, match="is not OPERATION=PER_SECOND"):
        loader.load(flags={"quotas.rates": (rate,)}, environ={})


def test_an_operation_has_one_rate() -> None:
    with pytest.raises(ConfigError, match="one rate at most"):
        loader.load(environ={"WHARFAGE_QUOTAS_RATES": "PutImage=1,PutImage=2"})


def test_quotas_begin_as_ecrs() -> None:
    """What nobody sets is what ECR has; request rates alone wait for the preset."""
    assert quotas_of(loader.load(environ={})) == ECR_QUOTAS
    given = loader.load(environ={"WHARFAGE_QUOTAS_IMAGES": "7", "WHARFAGE_QUOTAS_LAYER_PART_MIN_MIB": "1"})
    assert quotas_of(given) == replace(ECR_QUOTAS, images=7, layer_part_min=MIB)


@pytest.mark.parametrize(
    ("issuer", "taken"),
    [
        ("https://token.actions.githubusercontent.com", True),
        ("https://*.example.com", True),
        ("https://idp.example:8443/realms/ci/", True),
        ("http://idp.example", False),
        ("idp.example", False),
        ("https://*", False),
        ("https://a.*.example", False),
        ("https://idp.example/?q", False),
        ("https://user@idp.example", False),
        ("https://idp.example/a//b", False),
        ("https://idp.example/a\n", False),
    ],
)
def test_issuers_of_web_identities_are_https_hosts_with_a_path(issuer: str, taken: bool) -> None:
    """A host may begin with `*.`; nothing else is a pattern."""
    if taken:
        assert loader.load(flags={"sts.oidc_issuers": (issuer,)}).sts.oidc_issuers == (issuer,)
        return
    with pytest.raises(ConfigError, match="is not https://HOST"):
        loader.load(flags={"sts.oidc_issuers": (issuer,)})


def test_an_unknown_variable_is_reported_with_the_nearest_known() -> None:
    """A misspelt variable is warned about; the choice of twin is known and is not."""
    found = loader.load(environ={"WHARFAGE_SERVER_LISTN": ":1", "WHARFAGE_PURE": "1", "HOME": "/"})
    assert found.warnings == ("WHARFAGE_SERVER_LISTN is not a setting; did you mean WHARFAGE_SERVER_LISTEN?",)


def test_the_administrators_key_comes_from_its_own_variables() -> None:
    """WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY set the administrator's key."""
    environ = {"WHARFAGE_ACCESS_KEY_ID": "AKIA7777777777777777", "WHARFAGE_SECRET_ACCESS_KEY": "s" * 40}
    found = loader.load(environ=environ)
    assert (found.keys.access_key_id, found.keys.secret_access_key) == ("AKIA7777777777777777", "s" * 40)


@pytest.mark.parametrize(
    "flags",
    [
        {"server.tls_cert": "a.pem"},
        {"server.tls_cert": "a", "server.tls_key": "b", "server.tls_self_signed": True},
        {"metadata.listen": "127.0.0.1:7"},
        {"metadata.url": "http://127.0.0.1:7", "metadata.secret": "short"},
        {"metadata.path": "m.db", "metadata.database": "postgresql:///wharfage"},
        {"metadata.tls_cert": "a.pem"},
        {"quotas.layer_part_mib": 4},
        {"quotas.layer_part_mib": 16, "quotas.layer_part_max_mib": 12},
    ],
)
def test_settings_that_need_each_other_are_checked_together(flags: dict[str, object]) -> None:
    """Half a TLS pair, two sources of a certificate, two databases, TCP without a secret, and a part to ask for that
    would be refused."""
    with pytest.raises(ConfigError):
        loader.load(flags=flags, environ={})


SECRET = {"metadata.secret": "s" * 16}
TLS = {"metadata.tls_cert": "a", "metadata.tls_key": "b"}


@pytest.mark.parametrize(
    "flags",
    [
        {"metadata.listen": "10.0.0.5:5050"},
        {"metadata.listen": "0.0.0.0:5050"},
        {"metadata.listen": ":5050"},
        {"metadata.listen": "metadata.internal:5050"},
        {"metadata.url": "http://10.0.0.5:5050"},
        {"metadata.url": "https://10.0.0.5:5050, http://10.0.0.6:5050"},
        {"metadata.url": "http://127.0.0.1.example:5050"},
    ],
)
def test_metadata_over_tcp_leaves_the_machine_under_tls_or_by_ones_own_word_only(flags: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="plaintext = true"):
        loader.load(flags=flags | SECRET, environ={})
    assert loader.load(flags=flags | SECRET | {"metadata.plaintext": True}, environ={}).metadata.plaintext


@pytest.mark.parametrize(
    "flags",
    [
        {"metadata.listen": "127.0.0.1:5050"},
        {"metadata.listen": "[::1]:5050"},
        {"metadata.listen": "0.0.0.0:5050"} | TLS,
        {"metadata.url": "https://10.0.0.5:5050,https://10.0.0.6:5050"},
        {"metadata.url": "http://localhost:5050/, unix:/run/m.sock"},
    ],
)
def test_metadata_under_tls_or_on_loopback_needs_no_word(flags: dict[str, object]) -> None:
    loader.load(flags=flags | SECRET, environ={})


def test_what_is_in_force_names_every_key_and_its_source_and_masks_secrets() -> None:
    """The description has one line a key; a secret that is set shows as stars."""
    environ = {"WHARFAGE_ACCESS_KEY_ID": "AKIA7777777777777777", "WHARFAGE_SECRET_ACCESS_KEY": "s" * 40}
    found = loader.load(flags={"server.workers": 4}, environ=environ)
    text = loader.describe(found)
    assert "s" * 40 not in text
    assert 'secret_access_key = "***"' in text
    assert any(line.startswith("workers = 4") and "flag --workers" in line for line in text.splitlines())
    for section in dataclasses.fields(settings.Config)[:8]:
        for key in dataclasses.fields(getattr(found, section.name)):
            assert f"\n{key.name} = " in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('backend = "s3"', "needs the name of one"),
        ('bucket = "images"', r'goes with \[storage\] backend = "s3" only'),
        ('backend = "s3"\nbucket = "images"\naccess_key_id = "A"', "go together"),
        ('backend = "s3"\nbucket = "images"\npart_mib = 40', "must hold two parts"),
        ('backend = "s3"\nbucket = "Not A Bucket"', "a bucket's name"),
        ('sealing = "none"\nredirect = true', 'set backend = "s3"'),
        ('backend = "s3"\nbucket = "images"\nredirect = true', 'set sealing = "none" as well'),
        ('backend = "s3"\nbucket = "images"\npublic_endpoint = "https://s3.example"', "goes with redirect = true"),
        ('sealing = "off"', "must be one of aes-gcm, none"),
    ],
    ids=[
        "no-bucket",
        "no-backend",
        "half-a-key",
        "parts-beyond-the-budget",
        "bad-name",
        "redirect-without-s3",
        "redirect-of-sealed",
        "address-without-redirect",
        "unknown-sealing",
    ],
)
def test_s3_settings_that_do_not_fit_together_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loader.load(written(tmp_path, f"[storage]\n{text}\n"), environ={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('provider = "kms"', "needs the id, ARN or alias"),
        ('provider = "vault"', "must be one of local, kms"),
        ('provider = "kms"\nkey_id = "alias/registry"\nkms_access_key_id = "A"', "go together"),
        ('provider = "kms"\nkey_id = "two words"', "a key id, an ARN"),
        ('endpoint = "http://127.0.0.1:5000"', "goes with key_id"),
        ('allowed = ["alias/registry"]', "goes with key_id"),
        ('key_id = "alias/registry"\nallowed = ["registry"]', "'registry' is neither a KMS key's ARN nor alias/NAME"),
        ('key_id = "alias/registry"\nallowed = ["*"]', "neither a KMS key's ARN"),
        ('key_id = "alias/registry"\nallowed = ["arn:aws:kms:*"]', "neither a KMS key's ARN"),
    ],
    ids=["no-key", "unknown", "half-a-key", "bad-key", "no-key-for-it", "no-key-to-allow", "id", "all", "no-account"],
)
def test_key_settings_that_do_not_fit_together_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loader.load(written(tmp_path, f"[keys]\n{text}\n"), environ={})


@pytest.mark.parametrize(
    "allowed",
    [
        "arn:aws:kms:us-east-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:*:444455556666:key/*",
        "arn:aws-cn:kms:cn-north-1:444455556666:alias/registry-*",
        "alias/team/registry",
    ],
)
def test_keys_that_anyone_may_name_are_arns_and_aliases(allowed: str) -> None:
    found = loader.load(flags={"keys.key_id": "alias/registry", "keys.allowed": (allowed,)}, environ={})
    assert found.keys.allowed == (allowed,)


def test_a_required_audit_log_must_be_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "wharfage.toml"
    file.write_text('[audit]\nto = "none"\nrequired = true\n')
    with pytest.raises(ConfigError, match=r"\[audit\] required: there is no log to require"):
        loader.load(file, environ={})
