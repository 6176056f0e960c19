"""deploy/helm/wharfage: linted, rendered under several values, and each reference followed to what it names."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.runtime.supervisor import KILL_AFTER
from support.deployed_settings import settings_of
from support.programs import ROOT, run

pytestmark = pytest.mark.needs("helm")

CHART = ROOT / "deploy" / "helm" / "wharfage"
Object = dict[str, Any]

LEAST: Object = {
    "url": "https://registry.example.com",
    "admin": {"existingSecret": "admin"},
    "keys": {"existingSecret": "keys"},
    "s3": {"bucket": "layers", "existingSecret": "s3"},
    "metadata": {"existingSecret": "shared", "database": {"existingSecret": "database"}, "plaintext": True},
}
ENCRYPTED: Object = {
    **LEAST,
    "metadata": {
        "existingSecret": "shared",
        "database": {"existingSecret": "database"},
        "tls": {"existingSecret": "internal-tls"},
        "replicas": 3,
    },
    "imagePullSecrets": [{"name": "pull"}],
}
ALL: Object = {
    **ENCRYPTED,
    "fullnameOverride": "images",
    "s3": {
        "bucket": "layers",
        "prefix": "a/",
        "endpoint": "https://s3.example",
        "existingSecret": "s3",
        "caFile": "s3.crt",
    },
    "authorities": {"existingConfigMap": "authorities"},
    "backup": {
        "enabled": True,
        "keep": 30,
        "inventory": True,
        "passphrase": {"existingSecret": "passphrase"},
        "volume": {"existingClaim": "backup"},
    },
    "ingress": {"enabled": True, "tls": {"secretName": "certificate"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "proxy": {"autoscaling": {"enabled": True}, "drainDelaySeconds": 20, "podAnnotations": {"a": "b"}},
    "networkPolicy": {"proxyFrom": [{"namespaceSelector": {}}]},
    "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
    "settings": {"WHARFAGE_LOG_LEVEL": "warning", "WHARFAGE_SWEEP_GRACE_HOURS": 48, "WHARFAGE_LOG_FORM": "console"},
    "extraEnv": [{"name": "WHARFAGE_REGISTRY_CREATE_ON_PUSH", "value": "false"}],
}
KMS: Object = {
    **LEAST,
    "keys": {},
    "s3": {"bucket": "layers"},
    "settings": {"WHARFAGE_KEYS_PROVIDER": "kms", "WHARFAGE_KEYS_KEY_ID": "alias/registry"},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/registry"}},
    "networkPolicy": {"enabled": False},
}
BARE: Object = {
    **LEAST,
    "s3": {"bucket": "layers", "existingSecret": "s3", "endpoint": "http://s3.internal:8333", "plaintext": True},
    "serviceAccount": {"create": False},
    "proxy": {"podDisruptionBudget": {"enabled": False}, "cacheMiB": 0},
    "service": {"type": "LoadBalancer", "port": 8080},
}
SHOWN: Object = yaml.safe_load((ROOT / "docs" / "install.md").read_text().partition("```yaml\n")[2].partition("```")[0])
"""The values that docs/install.md shows."""
SETS = {"shown": SHOWN, "least": LEAST, "encrypted": ENCRYPTED, "all": ALL, "kms": KMS, "bare": BARE}
USUAL = {"PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"}
SECRETS = {"admin", "keys", "s3", "shared", "database", "internal-tls", "certificate", "pull", "passphrase"}
SECRETS |= {"wharfage-admin", "wharfage-keys", "wharfage-s3", "wharfage-shared", "wharfage-database"}
SECRETS |= {"wharfage-internal-tls", "wharfage-passphrase"}

chosen = pytest.mark.parametrize("name", SETS)


def helm(command: str, values: Object, folder: Path, *, ok: bool = True) -> str:
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    place: list[str | Path] = ["--strict", CHART] if command == "lint" else ["site", CHART, "--namespace", "registry"]
    done = run("helm", command, *place, "--kube-version", "1.31.0", "--values", file, ok=ok)
    return done.stdout if ok else done.stdout + done.stderr


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """Objects by the name of their values."""
    return {
        name: [found for found in yaml.safe_load_all(helm("template", values, tmp_path_factory.mktemp(name))) if found]
        for name, values in SETS.items()
    }


def of(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def pods(objects: list[Object]) -> dict[str, Object]:
    """Pod templates by component."""
    found = {}
    jobs = [each["spec"]["jobTemplate"] for each in of(objects, "CronJob")]
    for each in (*of(objects, "Deployment"), *of(objects, "StatefulSet"), *jobs):
        template = each["spec"]["template"]
        found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return found


def is_part(selector: Object, labels: Object) -> bool:
    return selector.items() <= labels.items()


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


@chosen
def test_the_chart_has_no_fault(name: str, tmp_path: Path) -> None:
    """`helm lint --strict`, under each set of values."""
    assert "0 chart(s) failed" in helm("lint", SETS[name], tmp_path)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("least", USUAL),
        ("all", {*USUAL, "Ingress", "ServiceMonitor", "HorizontalPodAutoscaler", "CronJob"}),
        ("kms", USUAL - {"NetworkPolicy"}),
        ("bare", USUAL - {"ServiceAccount"}),
    ],
)
def test_what_was_asked_for_is_rendered(rendered: dict[str, list[Object]], name: str, more: set[str]) -> None:
    """The kinds of a set of values, no others; each object once, and no Secret among them."""
    objects = rendered[name]
    assert {each["kind"] for each in objects} == {"ConfigMap", "Deployment", "StatefulSet", "Service"} | more
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


@chosen
def test_every_variable_is_a_setting_and_all_go_together(rendered: dict[str, list[Object]], name: str) -> None:
    """What a container would have in its environment is taken by the program itself."""
    maps = {each["metadata"]["name"]: each["data"] for each in of(rendered[name], "ConfigMap")}
    secret = {"url": "postgresql://a:b@c/d?sslmode=verify-full", "access-key-id": "AKIA7777777777777777"}
    for pod in pods(rendered[name]).values():
        [container] = pod["spec"]["containers"]
        variables: dict[str, object] = {}
        for source in container["envFrom"]:
            variables |= maps[source["configMapRef"]["name"]]
        for each in container["env"]:
            source = each.get("valueFrom", {})
            if "fieldRef" in source:
                assert each["name"] == "POD_NAME"
            elif "secretKeyRef" in source:
                key = source["secretKeyRef"]["key"]
                variables[each["name"]] = secret.get(key, "a-secret-of-forty-characters-exactly-and")
            else:
                variables[each["name"]] = each["value"].replace("$(POD_NAME)", "pod-0")
        assert all(isinstance(value, str) for value in variables.values())
        assert settings_of(variables).server.url == "https://registry.example.com"


def ports_of(pod: Object) -> set[str]:
    return {port["name"] for port in pod["spec"]["containers"][0].get("ports", [])}


def selected(objects: list[Object], selector: Object) -> Object:
    """The one pod template that a selector finds."""
    [pod] = [pod for pod in pods(objects).values() if is_part(selector, pod["metadata"]["labels"])]
    return pod


@chosen
def test_all_that_a_pod_names_is_there(rendered: dict[str, list[Object]], name: str) -> None:
    """Volumes, probed ports, the account; secrets are ones that the values name."""
    found = pods(rendered[name])
    assert set(found) == {"proxy", "metadata"} | ({"backup"} if SETS[name].get("backup") else set())
    accounts = {each["metadata"]["name"] for each in of(rendered[name], "ServiceAccount")} or {"default"}
    for component, pod in found.items():
        spec = pod["spec"]
        assert spec["serviceAccountName"] in accounts
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        probes = [value for key, value in walk(spec) if key in ("httpGet", "tcpSocket")]
        assert len(probes) == (0 if component == "backup" else 3)
        assert {probe["port"] for probe in probes} <= ports_of(pod)
        assert {held["name"] for key, held in walk(spec["volumes"]) if key == "configMap"} <= {"authorities"}
        assert {value["name"] for key, value in walk(spec) if key == "secretKeyRef"} <= SECRETS
        assert {value for key, value in walk(spec) if key == "secretName"} <= SECRETS


@chosen
def test_each_selector_finds_the_pods_of_one_component(rendered: dict[str, list[Object]], name: str) -> None:
    """Of workloads, budgets, policies and services; ports that they name are the pods'."""
    objects = rendered[name]
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        for each in of(objects, kind):
            selected(objects, each["spec"]["selector"]["matchLabels"])
    for each in of(objects, "NetworkPolicy"):
        pod = selected(objects, each["spec"]["podSelector"]["matchLabels"])
        assert {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]} <= ports_of(pod)
    for each in of(objects, "Service"):
        pod = selected(objects, each["spec"]["selector"])
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports_of(pod)


@chosen
def test_what_stands_before_the_pods_leads_to_them(rendered: dict[str, list[Object]], name: str) -> None:
    """The set's service, the autoscaler's target, the ingress's backend, what Prometheus is to ask."""
    objects = rendered[name]
    services = {each["metadata"]["name"]: each for each in of(objects, "Service")}
    offered = {(name, port["name"]) for name, service in services.items() for port in service["spec"]["ports"]}
    assert {each["spec"]["serviceName"] for each in of(objects, "StatefulSet")} <= set(services)
    deployments = {each["metadata"]["name"] for each in of(objects, "Deployment")}
    assert {each["spec"]["scaleTargetRef"]["name"] for each in of(objects, "HorizontalPodAutoscaler")} <= deployments
    for key, value in walk(of(objects, "Ingress")):
        if key == "backend":
            assert (value["service"]["name"], value["service"]["port"]["name"]) in offered
    for each in of(objects, "ServiceMonitor"):
        selector = each["spec"]["selector"]["matchLabels"]
        [asked] = [own for own, service in services.items() if is_part(selector, service["metadata"]["labels"])]
        assert (asked, each["spec"]["endpoints"][0]["port"]) in offered


@chosen
def test_the_key_file_is_where_the_program_looks_for_it(rendered: dict[str, list[Object]], name: str) -> None:
    """Mounted from the Secret that the values name, for the pod's group alone; with KMS there is none."""
    data = {key: value for found in of(rendered[name], "ConfigMap") for key, value in found["data"].items()}
    for pod in pods(rendered[name]).values():
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        secret = SETS[name]["keys"].get("existingSecret")
        assert ("keys" in mounts) == (secret is not None)
        if secret:
            held = volumes["keys"]["secret"]
            assert (held["secretName"], held["defaultMode"]) == (secret, 0o440)
            assert data["WHARFAGE_KEYS_FILE"] == f"{mounts['keys']}/{held['items'][0]['path']}"


@chosen
def test_proxies_know_each_metadata_service_by_its_name(rendered: dict[str, list[Object]], name: str) -> None:
    """One URL a replica, of the pod's own name; https exactly when there is a certificate."""
    [each] = of(rendered[name], "StatefulSet")
    data = {key: value for found in of(rendered[name], "ConfigMap") for key, value in found["data"].items()}
    scheme = "https" if SETS[name]["metadata"].get("tls") else "http"
    own = each["metadata"]["name"]
    assert data["WHARFAGE_METADATA_URL"].split(",") == [
        f"{scheme}://{own}-{number}.{own}.registry.svc:5050" for number in range(each["spec"]["replicas"])
    ]
    told = {found["name"]: found.get("value") for found in each["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert told["WHARFAGE_METADATA_ADVERTISE"] == f"{scheme}://$(POD_NAME).{own}.registry.svc:5050"


@chosen
def test_metadata_services_may_ask_each_other_and_know_who_signed_their_certificates(
    rendered: dict[str, list[Object]], name: str
) -> None:
    """Else there is no outage_grace: the network policy lets them, and the authority is there for them as for nodes."""
    pod = pods(rendered[name])["metadata"]
    [container] = pod["spec"]["containers"]
    maps = {each["metadata"]["name"]: each["data"] for each in of(rendered[name], "ConfigMap")}
    given: Object = {}
    for source in container["envFrom"]:
        given |= maps[source["configMapRef"]["name"]]
    if SETS[name]["metadata"].get("tls"):
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert str(Path(given["WHARFAGE_METADATA_CA_BUNDLE"]).parent) in mounts
    for each in of(rendered[name], "NetworkPolicy"):
        if is_part(each["spec"]["podSelector"]["matchLabels"], pod["metadata"]["labels"]):
            sources = [one["podSelector"]["matchLabels"] for one in each["spec"]["ingress"][0]["from"]]
            assert any(is_part(source, pod["metadata"]["labels"]) for source in sources)


@chosen
def test_pods_have_no_rights_and_get_the_time_that_a_drain_takes(rendered: dict[str, list[Object]], name: str) -> None:
    """Non-root, read-only, no capability, the default seccomp profile; grace longer than delay and drain."""
    found = pods(rendered[name])
    for pod in found.values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            held = container["securityContext"]
            assert held["readOnlyRootFilesystem"] is True
            assert held["allowPrivilegeEscalation"] is False
            assert held["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
    data = {k: v for each in of(rendered[name], "ConfigMap") for k, v in each["data"].items()}
    drain = float(data["WHARFAGE_SERVER_DRAIN_DELAY_SECONDS"]) + float(data["WHARFAGE_SERVER_DRAIN_SECONDS"])
    assert found["proxy"]["spec"]["terminationGracePeriodSeconds"] > drain + KILL_AFTER


@chosen
def test_the_cache_has_room_in_the_data_directory(rendered: dict[str, list[Object]], name: str) -> None:
    """The volume's limit is beyond what the cache may take, a quarter for what passes through it, and 1 GiB."""
    data = {k: v for each in of(rendered[name], "ConfigMap") for k, v in each["data"].items()}
    mib = int(data["WHARFAGE_CACHE_MIB"])
    assert mib == SETS[name].get("proxy", {}).get("cacheMiB", 4096)
    [volume] = [each for each in pods(rendered[name])["proxy"]["spec"]["volumes"] if each["name"] == "data"]
    assert int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi")) >= mib * 1.25 + 1024


def test_a_backup_knows_services_rows_bucket_keys_and_its_passphrase(rendered: dict[str, list[Object]]) -> None:
    """Its command and flags are the program's; its folder is the claim; services let it in."""
    objects = rendered["all"]
    [job] = of(objects, "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = pods(objects)["backup"]
    [container] = pod["spec"]["containers"]
    helped = run(sys.executable, "-m", "proxy", container["args"][0], "--help").stdout
    assert all(word in helped for word in container["args"] if word.startswith("--"))
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts[container["args"][1]]["persistentVolumeClaim"]["claimName"] == "backup"
    assert mounts["/passphrase"]["secret"]["items"][0]["path"] == container["args"][3].rpartition("/")[2]
    names = {each["name"] for each in container["env"]}
    assert {"WHARFAGE_METADATA_DATABASE", "WHARFAGE_STORAGE_SECRET_ACCESS_KEY", "WHARFAGE_METADATA_SECRET"} <= names
    [policy] = [each for each in of(objects, "NetworkPolicy") if each["metadata"]["name"].endswith("-metadata")]
    peers = [peer["podSelector"]["matchLabels"] for peer in policy["spec"]["ingress"][0]["from"]]
    assert any(is_part(peer, pod["metadata"]["labels"]) for peer in peers)


def test_the_ingress_shows_no_metrics(rendered: dict[str, list[Object]]) -> None:
    """Docker's paths, those of links to layers and aws's one, for the host of the URL, with its certificate."""
    [ingress] = of(rendered["all"], "Ingress")
    [rule] = ingress["spec"]["rules"]
    assert rule["host"] == "registry.example.com"
    paths = {(path["path"], path["pathType"]) for path in rule["http"]["paths"]}
    assert paths == {("/v2", "Prefix"), ("/layers", "Prefix"), ("/", "Exact")}
    assert ingress["spec"]["tls"] == [{"hosts": ["registry.example.com"], "secretName": "certificate"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": ""}, "url"),
        ({"url": "registry.example.com"}, "url"),
        ({"admin": {"existingSecret": ""}}, "existingSecret"),
        ({"keys": {"existingSecret": ""}}, "name a Secret with master.json"),
        ({"s3": {"bucket": ""}}, "bucket"),
        ({"metadata": {"existingSecret": "a", "database": {"existingSecret": "b"}}}, "or say metadata.plaintext"),
        ({"metadata": {"existingSecret": "a", "plaintext": True}}, "existingSecret"),
        ({"proxy": {"replica": 3}}, "replica"),
        ({"proxy": {"cacheMiB": 32}}, "cacheMiB"),
        ({"backup": {"enabled": True}}, "a backup needs both"),
        ({"s3": {"bucket": "layers", "caFile": "s3.crt"}}, "s3.caFile is a file of it"),
        ({"s3": {"bucket": "layers", "endpoint": "http://s3:8333"}}, "or say s3.plaintext: true"),
        ({"settings": {"LOG_LEVEL": "debug"}}, "LOG_LEVEL"),
        ({"ingress": {"enabled": True}}, "ingress.tls.secretName"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_missing_or_misspelt_is_refused_by_its_name(change: Object, said: str, tmp_path: Path) -> None:
    """A value that must be given, one that nobody knows, and two that exclude each other."""
    assert said in helm("template", {**LEAST, **change}, tmp_path, ok=False)
