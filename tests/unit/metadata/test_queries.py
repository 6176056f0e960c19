"""No query walks rows it does not return: the databases' own plans of every statement that every operation runs."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, delete, event, update

from proxy.metadata.db import migrations
from proxy.metadata.db.pg_sessions import UNINDEXED
from proxy.metadata.db.postgresql import PostgresqlDatabase
from proxy.metadata.db.schema import blob_links
from proxy.metadata.db.schema import blobs as schema_blobs
from proxy.metadata.db.sqlite import sqlite_engine
from proxy.metadata.db.transaction import Changes, Registry, Transaction
from proxy.metadata.operations import (
    ECR,
    INTERNAL,
    absent,
    account_settings,
    accounts,
    append_hashes,
    archive,
    blobs,
    cached_images,
    counts,
    creation_templates,
    credentials,
    event_rules,
    events,
    frame_hashes,
    identity,
    images,
    jobs,
    keys,
    layers,
    lifecycle_images,
    lifecycle_policies,
    lifecycle_previews,
    manifests,
    mirror,
    new_uploads,
    open_objects,
    pull_time_exclusions,
    pull_times,
    pushes,
    rates,
    referrers,
    registries,
    removal,
    repositories,
    repository_settings,
    repository_tags,
    reservations,
    scanning,
    upkeep,
    uploads,
)
from proxy.metadata.operations import policies as ecr_policies
from proxy.metadata.operations.iam import IAM, access_keys, roles
from proxy.model.errors import Failure
from proxy.model.events import EventSecret
from proxy.model.lifecycle.evaluation import ImageStatus, Mark
from proxy.model.lifecycle.policy import LifecycleAction
from proxy.model.lifecycle.records import PreviewResult
from proxy.model.quotas import Quotas
from proxy.model.records import (
    FRAME_PAGE,
    CreateOnPush,
    EncryptedDataKey,
    Fence,
    KeyRecord,
    NewUpload,
    Pull,
    Sealing,
    SentPart,
)
from support import postgresql
from support.archive_examples import of_archive
from support.examples import LIFECYCLE
from support.iam_people import KEY, people
from support.iam_policies import policies
from support.metadata import (
    ACCOUNT,
    DATA_KEY,
    IMAGE,
    append,
    digest,
    image_manifest,
    index_manifest,
    plain_append,
    postgresql_database,
)
from support.pull_through_examples import of_pull_through
from support.replication_examples import of_replication

R = "team/app"
LIMITED = Quotas(repository_bytes=2**40, account_bytes=2**40)
MARKS = [Mark(number, digest("x"), 0.0, 1, LifecycleAction.EXPIRE, subject) for number, subject in ((1, None), (2, 1))]
PREVIEWED = PreviewResult(0, digest("x"), ("v1",), 0.0, ImageStatus.ACTIVE, 1, LifecycleAction.EXPIRE)
FULL_PAGE = bytes(FRAME_PAGE * 32)
SMALL = {"turns", "accounts", "alembic_version", "master_keys", "reserved_objects", "limited"}
"""A row a task, an account, a database, a rotation, a reseal; and subqueries under a limit of their own."""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = sqlite_engine(tmp_path / "m.db")
    with engine.connect() as opened:
        opened.info["writing"] = True
        with opened.begin():
            migrations.upgrade(opened)
        yield opened
    engine.dispose()


class Push:
    """Enough rows for every branch, made through the operations themselves."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.keys = iter(f"{number:032x}" for number in range(1000))

    def begin(self, sealing: Sealing = Sealing.AES_GCM, *, in_parts: bool = False) -> Any:
        key = next(self.keys)
        rules = (CreateOnPush.YES, sealing, in_parts)
        about = ("sha256", key, DATA_KEY, "arn", 4096)
        return uploads.begin_upload(self.tx, ACCOUNT, R, *about, *rules, opened_by="AIDA")

    def new(self) -> NewUpload:
        key, ids = next(self.keys), (str(uuid.uuid4()), ACCOUNT, R)
        return NewUpload(*ids, "sha256", key, DATA_KEY, "arn", 4096, Sealing.AES_GCM, "", "AIDA", self.tx.now)

    def lease(self) -> Any:
        return uploads.lease_upload(self.tx, ACCOUNT, R, self.begin().upload_id, 30.0, "me")

    def commit(self, leased: Any, name: str) -> Any:
        return uploads.commit_upload(self.tx, leased.upload_id, leased.fence, digest(name), append(0, 9), b"s")[0]

    def blob(self, name: str) -> Any:
        return self.commit(self.lease(), name)

    def put(self, content: bytes, *tags: str) -> str:
        prepared = pushes.examine(ACCOUNT, R, content, None, digest(content), tags, CreateOnPush.YES)
        return pushes.put_manifest(self.tx, **prepared).digest

    def image(self, name: str, *tags: str, **more: Any) -> str:
        self.blob(name)
        return self.put(image_manifest(name, [name], **more), *tags)


def _every(tx: Transaction) -> dict[str, Callable[[], object]]:
    """One call of each operation, by the name under which the service knows it."""
    push = Push(tx)
    administrator = accounts.bootstrap(tx, ACCOUNT, "administrator", "AKIA9999999999999999", b"sealed").administrator
    assert administrator is not None
    subject = {"mediaType": IMAGE, "digest": digest("subject"), "size": 1}
    one, two = push.image("one", "v1", "v2"), push.image("two")
    push.image("three", "v3", subject=subject, artifactType="a/b")
    push.put(index_manifest([one, two]), "latest")
    blob, loose, open_upload = push.blob("one"), push.blob("loose"), push.begin()
    cancelled, advanced = push.begin(), push.begin(in_parts=True)
    fence = uploads.lease_upload(tx, ACCOUNT, R, advanced.upload_id, 30.0, "me").fence
    committed = uploads.lease_upload(tx, ACCOUNT, R, push.begin().upload_id, 30.0, "me")
    whole, other = uploads.lease_upload(tx, ACCOUNT, R, push.begin().upload_id, 30.0, "me"), push.begin()
    plain_id = push.begin(Sealing.NONE).upload_id
    leased = uploads.lease_upload(tx, ACCOUNT, R, plain_id, 30.0, "me")
    plain, plain_fence = leased.sealed, leased.fence
    coming = image_manifest("absent", ["absent-layer"])
    prepared = pushes.examine(ACCOUNT, R, coming, None, digest(coming), ["up"], CreateOnPush.YES)
    key, uid, f = blob.sealed.object_key, advanced.upload_id, fence
    holder = uploads.lease_upload(tx, ACCOUNT, R, push.begin().upload_id, 30.0, "me")
    held = Fence(holder.upload_id, holder.fence)
    named = {"repositoryName": R}
    ids = {"imageIds": [{"imageTag": "v2"}, {"imageDigest": one}, {"imageTag": "v2", "imageDigest": one}]}

    arn, setting = {"resourceArn": f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{R}"}, {"name": "BLOB_MOUNTING"}
    allow = {
        "Effect": "Allow",
        "Action": "ecr:BatchGetImage",
        "Principal": {"AWS": [administrator.arn, ACCOUNT]},
    }
    policy, of_registry = (json.dumps({"Statement": [{**allow, **more}]}) for more in ({}, {"Resource": "*"}))

    def listed() -> None:
        for status in ("ANY", "TAGGED", "UNTAGGED"):
            more: dict[str, Any] | None = {}
            while more is not None:
                asked = {"maxResults": 1, **named, "filter": {"tagStatus": status}, **more}
                got = images.list_images(tx, ACCOUNT, asked)
                more = {"nextToken": got["nextToken"]} if "nextToken" in got else None

    def refused(run: Callable[..., object], parameters: dict[str, Any]) -> None:
        with contextlib.suppress(Failure):
            run(tx, ACCOUNT, parameters)

    def archived() -> None:
        push.image("cold", "cold")
        for storage_class in ("ARCHIVE", "STANDARD"):
            asked = {**named, "imageId": {"imageTag": "cold"}, "targetStorageClass": storage_class}
            archive.update_image_storage_class(tx, ACCOUNT, asked)

    def described() -> None:
        for status in ("ANY", "TAGGED", "UNTAGGED"):
            images.describe_images(tx, ACCOUNT, {**named, "filter": {"tagStatus": status}})
        images.describe_images(tx, ACCOUNT, {**named, **ids})

    def removed() -> None:
        push.image("six", "v6")
        removal.mark_deleted(tx, repositories.need_repository(tx, ACCOUNT, R))
        removal.remove_deleted(tx, 100)

    def replaced() -> None:
        reservations.reserve_object(tx, blob.sealed.object_key, 1.0)
        upkeep.replace_object(tx, "none", blob)

    def expired() -> None:
        reservations.reserve_object(tx, "e" * 32, -1.0)
        upkeep.expire_uploads(tx, -1.0, 100)

    def recounted() -> None:
        for noun, found in counts.NOUNS.items():
            counts.recount(tx, noun, "/".join("1" for _ in found.key))

    def miscounted() -> None:
        """Of one image the link counts no use, of another the link is gone."""
        tx.connection.execute(update(blob_links).where(blob_links.c.repository_id == 1).values(uses=0, touched_at=0.0))
        tx.connection.execute(delete(blob_links).where(blob_links.c.blob_id == 1))
        tx.connection.execute(update(schema_blobs).where(schema_blobs.c.blob_id == 1).values(links=0, touched_at=0.0))
        assert upkeep.collect_blobs(tx, -1.0, 100).corrected > 1

    def claimed() -> None:
        for number in range(2):
            jobs.enqueue(tx, "copy", ACCOUNT, f"k{number}", {})
        jobs.enqueue(tx, "copy", ACCOUNT, "k0", {})
        found, _ = jobs.claim_jobs(tx, "copy", 8, 60.0, ("", ""), (), 8, 8)
        assert len(found) == 2

    def ruled(operation: str, **parameters: Any) -> Callable[[], object]:
        run = event_rules.EVENTS[operation].run
        return lambda: run(tx, ACCOUNT, parameters)

    rule = {"Rule": "all"}
    rule_arn = event_rules.rule_arn(tx, ACCOUNT, "all")
    pattern = '{"source": ["aws.ecr"]}'

    def ended() -> None:
        events.emit(tx, ACCOUNT, "ECR Image Action", R, [{"n": 1}, {"n": 2}])
        claimed, _ = jobs.claim_jobs(tx, "event", 8, 60.0, ("", ""), (), 8, 8)
        job = next(each for each in claimed if each.key == f"1/{R}")
        for error, dead in (("x", False), ("x", True), (None, False)):
            delivery = events.next_event(tx, ACCOUNT, 1, R)
            assert delivery is not None
            assert events.end_event(tx, job.job_id, job.fence, delivery.delivery_id, error, dead)
        events.emit(tx, ACCOUNT, "ECR Image Action", R, {"n": 3})

    def finished() -> None:
        for revision in (0, 1):
            jobs.finish_job(tx, 2, 1, revision)

    def put_images() -> None:
        for content in (index_manifest([one, two], y=1), index_manifest([two], z=1)):
            for tag in ("a", "b"):
                asked = {**named, "imageManifest": content.decode(), "imageTag": tag}
                pushes.put_image(tx, **pushes.examine_image(ACCOUNT, asked))

    return {
        **people(tx, ACCOUNT),
        **policies(tx, ACCOUNT),
        "events.PutRule": ruled("PutRule", Name="all", EventPattern=pattern),
        "events.PutTargets": ruled("PutTargets", **rule, Targets=[{"Id": "a", "Arn": "x"}, {"Id": "b", "Arn": "x"}]),
        "events.DescribeRule": ruled("DescribeRule", Name="all"),
        "events.ListRules": ruled("ListRules", NamePrefix="a"),
        "events.ListTargetsByRule": ruled("ListTargetsByRule", **rule),
        "events.DisableRule": ruled("DisableRule", Name="all"),
        "events.EnableRule": ruled("EnableRule", Name="all"),
        "events.TagResource": ruled("TagResource", ResourceARN=rule_arn, Tags=[{"Key": "a", "Value": "b"}]),
        "events.UntagResource": ruled("UntagResource", ResourceARN=rule_arn, TagKeys=["a"]),
        "events.ListTagsForResource": ruled("ListTagsForResource", ResourceARN=rule_arn),
        "events.TestEventPattern": ruled("TestEventPattern", EventPattern=pattern, Event="{}"),
        "access_key": lambda: identity.access_key(tx, "AKIA9999999999999999"),
        "principal": lambda: identity.principal(tx, administrator.principal_id),
        "policy_documents": lambda: identity.policy_documents(tx, ACCOUNT, ["arn:aws:iam::123456789012:policy/own"]),
        "repository_access": lambda: identity.repository_access(tx, ACCOUNT, R),
        "repositories_access": lambda: identity.repositories_access(tx, ACCOUNT, [R, "no/where"]),
        "registry_access": lambda: identity.registry_access(tx, ACCOUNT),
        "role": lambda: identity.role(tx, ACCOUNT, "ann-role"),
        "oidc_provider": lambda: identity.oidc_provider(tx, ACCOUNT, "token.example.com"),
        "bind_repository_policy": lambda: ecr_policies.bind_repository_policy(tx, ACCOUNT, policy),
        "create_access_key": lambda: access_keys.create_access_key(tx, ACCOUNT, "two", "AKIA2222", b"sealed"),
        "note_key_use": lambda: access_keys.note_key_use(tx, KEY, 1.0, "us-east-1", "ecr"),
        "note_role_use": lambda: roles.note_role_use(tx, "AROA", 1.0, "us-east-1"),
        "create_account": lambda: accounts.create_account(tx, "210987654321", "AKIA3333", b"sealed", "boss"),
        "accounts": lambda: accounts.list_accounts(tx),
        "close_account": lambda: accounts.close_account(tx, "210987654321"),
        "credentials": lambda: credentials.list_credentials(tx, "", 100),
        "revoke": lambda: credentials.revoke(tx, f"arn:aws:iam::{ACCOUNT}:root"),
        "blob": lambda: blobs.blob(tx, ACCOUNT, R, digest("one")),
        "segments": lambda: blobs.segments(tx, key, 5, 64),
        "frame_hashes": lambda: frame_hashes.frame_hashes(tx, plain.object_key, 0),
        "keep_frame_hashes": lambda: append_hashes.keep_frame_hashes(tx, plain_id, plain_fence, 0, FULL_PAGE),
        "blob_holders": lambda: blobs.blob_holders(tx, ACCOUNT, digest("one"), 20),
        "mount_blob": lambda: blobs.mount_blob(tx, ACCOUNT, "b/b", digest("one"), R, CreateOnPush.YES),
        "unlink_blob": lambda: blobs.unlink_blob(tx, ACCOUNT, R, digest("loose")),
        "quarantine": lambda: blobs.quarantine(tx, loose.sealed.object_key, "why"),
        "begin_upload": push.begin,
        "record_upload": lambda: new_uploads.record_upload(tx, push.new(), 15.0),
        "record_append": lambda: new_uploads.record_append(tx, push.new(), append(0, 9), b"s", b"", digest("first")),
        "record_blob": lambda: new_uploads.record_blob(tx, push.new(), digest("first"), append(0, 9), b""),
        "upload": lambda: uploads.upload(tx, ACCOUNT, R, open_upload.upload_id),
        "lease_upload": lambda: uploads.lease_upload(tx, ACCOUNT, R, open_upload.upload_id, 1.0, "me"),
        "renew_upload": lambda: uploads.renew_upload(tx, uid, f, 1.0),
        "advance_upload": lambda: (
            uploads.advance_upload(tx, uid, f, append(0, 1), b""),
            uploads.advance_upload(tx, plain_id, plain_fence, plain_append(0, FRAME_PAGE * 4096 + 1), b"", bytes(32)),
        ),
        "finish_upload": lambda: uploads.finish_upload(tx, whole.upload_id, 1, append(0, 9), b"", b"", digest("all")),
        "close_upload": lambda: [
            uploads.close_upload(tx, ACCOUNT, R, each.upload_id, digest("all"), 30.0, "me") for each in (whole, other)
        ],
        "release_upload": lambda: uploads.release_upload(tx, uid, f),
        "commit_upload": lambda: uploads.commit_upload(
            tx, committed.upload_id, committed.fence, digest("new"), append(0, 1), b""
        ),
        "cancel_upload": lambda: uploads.cancel_upload(tx, ACCOUNT, R, cancelled.upload_id),
        "manifest": lambda: (manifests.manifest(tx, ACCOUNT, R, "v1"), manifests.manifest(tx, ACCOUNT, R, one)),
        "put_manifest": lambda: (push.image("four", "v1"), push.put(index_manifest([one, two], x=1), "latest")),
        "tags": lambda: manifests.list_tags(tx, ACCOUNT, R, "v1", 9),
        "repositories": lambda: repositories.names(tx, ACCOUNT, "a", 9),
        "referrers": lambda: [
            referrers.referrers(tx, ACCOUNT, R, digest("subject"), kind, "", 9) for kind in (None, "a/b")
        ],
        "absent_blob": lambda: absent.absent_blob(tx, ACCOUNT, R, digest("absent-layer")),
        "import_manifest": lambda: mirror.import_manifest(tx, **prepared),
        "mirrored_tag": lambda: mirror.mirrored_tag(tx, ACCOUNT, R, "up"),
        "note_tag_checked": lambda: mirror.note_tag_checked(tx, ACCOUNT, R, "up", one, None),
        "lease_fetch": lambda: [
            mirror.lease_fetch(tx, ACCOUNT, R, one, holder, "at", 1.0, "") for holder in ("me", "me", "you")
        ],
        "end_fetch": lambda: mirror.end_fetch(tx, ACCOUNT, R, one, "me"),
        "referrers_checked": lambda: mirror.referrers_checked(tx, ACCOUNT, R, one),
        "note_referrers_checked": lambda: mirror.note_referrers_checked(tx, ACCOUNT, R, one),
        "note_import_failed": lambda: mirror.note_import_failed(tx, ACCOUNT, R, "up", "Code", "why"),
        "request_trim": lambda: mirror.request_trim(tx, ACCOUNT, "far"),
        "repository_sizes": lambda: cached_images.repository_sizes(tx, ACCOUNT, "", 9),
        "held_bytes": lambda: cached_images.held_bytes(tx, ACCOUNT, R, 0, 9),
        "cached_images": lambda: cached_images.cached_images(tx, ACCOUNT, R, "", 9),
        "evict_images": lambda: cached_images.evict_images(tx, ACCOUNT, R, [digest(coming)], tx.now),
        "request_image": lambda: mirror.request_image(tx, ACCOUNT, R, "up", ["linux/amd64"], "far"),
        "note_pulls": lambda: pull_times.note_pulls(
            tx, [Pull(ACCOUNT, R, one, "arn", 1.0), Pull(ACCOUNT, R, two, "b", 1.0)]
        ),
        "delete_tag": lambda: manifests.delete_tag(tx, ACCOUNT, R, "v3"),
        "take_turn": lambda: upkeep.take_turn(tx, "sweep", 1.0),
        "hold_blobs": lambda: upkeep.hold_blobs(tx, -1.0),
        "reserve_object": lambda: list(map(partial(reservations.reserve_object, tx, seconds=1.0), ["f" * 32] * 2)),
        "any_reserved": lambda: reservations.any_reserved(tx),
        "known_objects": lambda: upkeep.known_objects(tx, [key, "0" * 32]),
        "objects": lambda: upkeep.objects(tx, "", 9),
        "replace_data_key": lambda: upkeep.replace_data_key(tx, key, DATA_KEY, DATA_KEY),
        "replace_object": replaced,
        "release_object": lambda: reservations.release_object(tx, "f" * 32),
        "key_records": lambda: keys.key_records(tx),
        "record_key": lambda: [
            keys.record_key(tx, KeyRecord(name, "wharfage", b"check", DATA_KEY, "arn", True), replaces)
            for name, replaces in (("one", None), ("two", "one"))
        ],
        "sealed_secrets": lambda: keys.sealed_secrets(tx, "A", 9),
        "replace_sealed_secret": lambda: keys.replace_sealed_secret(tx, "AKIA", b"old", b"new"),
        **of_pull_through(tx, ACCOUNT),
        "open_uploads": lambda: keys.open_uploads(tx, "0", 9),
        "open_object": lambda: open_objects.open_object(tx, key),
        "keep_open_object": lambda: open_objects.keep_open_object(
            tx, key, held, 9, "u", [SentPart(1, 1, "e", "")], 9, b"tail", 2
        ),
        "cut_open_object": lambda: open_objects.cut_open_object(tx, key, held, 11, 16),
        "reserve_part_numbers": lambda: open_objects.reserve_part_numbers(tx, key, held, 16),
        "open_object_parts": lambda: open_objects.open_object_parts(tx, key),
        "open_object_tail": lambda: open_objects.open_object_tail(tx, key, 9),
        "open_objects": lambda: open_objects.open_objects(tx, "", 9),
        "drop_open_object": lambda: open_objects.drop_open_object(tx, key),
        "miscounts": lambda: [counts.miscounts(tx, noun, "", 9) for noun in counts.NOUNS],
        "recount": recounted,
        "take_tokens": lambda: [rates.take_tokens(tx, ACCOUNT, "PutImage", 10.0, 10.0, most) for most in (1, 2)],
        "claim_jobs": claimed,
        "due_kinds": lambda: jobs.due_kinds(tx, ["copy"]),
        "renew_job": lambda: jobs.renew_job(tx, 1, 1, 60.0),
        "release_job": lambda: jobs.release_job(tx, 1, 1, 0.0),
        "finish_job": finished,
        "fail_job": lambda: jobs.fail_job(tx, 1, 1, "why", None),
        "job_counts": lambda: jobs.job_counts(tx),
        "list_jobs": lambda: jobs.list_jobs(tx, 0, 9, "copy", ACCOUNT, True),
        "retry_job": lambda: jobs.retry_job(tx, 1),
        "drop_job": lambda: jobs.drop_job(tx, 1),
        "next_event": lambda: events.next_event(tx, ACCOUNT, 1, R),
        "dead_event": lambda: events.dead_event(tx, ACCOUNT, 1, "{}"),
        "end_event": ended,
        "drop_events": lambda: (events.drop_events(tx, 1, R), events.drop_events(tx, 2, R)),
        "event_secret": lambda: events.event_secret(tx, ACCOUNT),
        "put_event_secret": lambda: [events.put_event_secret(tx, ACCOUNT, b"s", each, 1.0) for each in (False, True)],
        "sealed_event_secrets": lambda: events.sealed_event_secrets(tx, "", 9),
        "replace_event_secret": lambda: [
            events.replace_event_secret(tx, ACCOUNT, EventSecret(b"s", each, 0.0), EventSecret(b"t", each, 0.0))
            for each in (b"s", None)
        ],
        "ping": lambda: upkeep.ping(tx),
        "CreateRepository": lambda: repositories.create_repository(tx, ACCOUNT, {"repositoryName": "c/c"}),
        "DescribeRepositories": lambda: [
            repositories.describe_repositories(tx, ACCOUNT, asked)
            for asked in ({"maxResults": 1}, {"repositoryNames": [R, "b/b"]})
        ],
        "SetRepositoryPolicy": lambda: ecr_policies.set_repository_policy(tx, ACCOUNT, {**named, "policyText": policy}),
        "GetRepositoryPolicy": lambda: ecr_policies.get_repository_policy(tx, ACCOUNT, named),
        "DeleteRepositoryPolicy": lambda: ecr_policies.delete_repository_policy(tx, ACCOUNT, named),
        "PutRegistryPolicy": lambda: ecr_policies.put_registry_policy(tx, ACCOUNT, {"policyText": of_registry}),
        "GetRegistryPolicy": lambda: ecr_policies.get_registry_policy(tx, ACCOUNT, {}),
        "DeleteRegistryPolicy": lambda: ecr_policies.delete_registry_policy(tx, ACCOUNT, {}),
        **of_archive(tx, ACCOUNT, R, push),
        **of_replication(tx, ACCOUNT, R, push),
        "GetSigningConfiguration": lambda: refused(registries.get_signing_configuration, {}),
        "GetRegistryScanningConfiguration": lambda: scanning.get_registry_scanning_configuration(tx, ACCOUNT, {}),
        "PutImageScanningConfiguration": lambda: scanning.put_image_scanning_configuration(
            tx, ACCOUNT, {**named, "imageScanningConfiguration": {}}
        ),
        "UpdateImageStorageClass": archived,
        "PutLifecyclePolicy": lambda: lifecycle_policies.put_lifecycle_policy(
            tx, ACCOUNT, {**named, "lifecyclePolicyText": LIFECYCLE}
        ),
        "GetLifecyclePolicy": lambda: lifecycle_policies.get_lifecycle_policy(tx, ACCOUNT, named),
        "StartLifecyclePolicyPreview": lambda: lifecycle_previews.start_preview(tx, ACCOUNT, named),
        "lease_preview": lambda: lifecycle_previews.lease_preview(tx, ACCOUNT, R, 9.0),
        "keep_preview": lambda: lifecycle_previews.keep_preview(tx, ACCOUNT, R, 1, [PREVIEWED]),
        "finish_preview": lambda: lifecycle_previews.finish_preview(tx, ACCOUNT, R, 1, "COMPLETE", 1, 0),
        "GetLifecyclePolicyPreview": lambda: [
            lifecycle_previews.get_preview(tx, ACCOUNT, {**named, **asked})
            for asked in ({}, {"imageIds": [{"imageTag": "v1"}]}, {"filter": {"tagStatus": "TAGGED"}})
        ],
        "trim_preview": lambda: lifecycle_previews.trim_preview(tx, ACCOUNT, R, 9),
        "expire_previews": lambda: lifecycle_previews.expire_previews(tx, 9),
        "lifecycle_due": lambda: lifecycle_policies.lifecycle_due(tx, 0.0, 9),
        "lifecycle_policy": lambda: lifecycle_policies.lifecycle_policy(tx, ACCOUNT, R),
        "lifecycle_page": lambda: lifecycle_images.lifecycle_page(tx, ACCOUNT, R, "", 9),
        "apply_lifecycle": lambda: lifecycle_images.apply_lifecycle(tx, ACCOUNT, R, LIFECYCLE, MARKS, False),
        "lifecycle_evaluated": lambda: lifecycle_policies.lifecycle_evaluated(tx, ACCOUNT, R, LIFECYCLE),
        "DeleteLifecyclePolicy": lambda: lifecycle_policies.delete_lifecycle_policy(tx, ACCOUNT, named),
        "PutAccountSetting": lambda: account_settings.put_account_setting(tx, ACCOUNT, {**setting, "value": "ENABLED"}),
        "GetAccountSetting": lambda: account_settings.get_account_setting(tx, ACCOUNT, setting),
        "CreateRepositoryCreationTemplate": lambda: [
            creation_templates.create_template(tx, ACCOUNT, {"prefix": each, "appliedFor": ["CREATE_ON_PUSH"]})
            for each in ("a", "b")
        ],
        "DescribeRepositoryCreationTemplates": lambda: [
            creation_templates.describe_templates(tx, ACCOUNT, asked)
            for asked in ({"maxResults": 1}, {"prefixes": ["a", "b"]})
        ],
        "UpdateRepositoryCreationTemplate": lambda: creation_templates.update_template(tx, ACCOUNT, {"prefix": "a"}),
        "DeleteRepositoryCreationTemplate": lambda: [
            creation_templates.delete_template(tx, ACCOUNT, {"prefix": each}) for each in ("a", "b")
        ],
        "RegisterPullTimeUpdateExclusion": lambda: pull_time_exclusions.register_exclusion(
            tx, ACCOUNT, {"principalArn": "arn"}
        ),
        "ListPullTimeUpdateExclusions": lambda: pull_time_exclusions.list_exclusions(tx, ACCOUNT, {}),
        "DeregisterPullTimeUpdateExclusion": lambda: pull_time_exclusions.deregister_exclusion(
            tx, ACCOUNT, {"principalArn": "arn"}
        ),
        "TagResource": lambda: repository_tags.tag_resource(
            tx, ACCOUNT, {**arn, "tags": [{"Key": key, "Value": ""} for key in "ab"]}
        ),
        "ListTagsForResource": lambda: repository_tags.list_tags_for_resource(tx, ACCOUNT, arn),
        "UntagResource": lambda: repository_tags.untag_resource(tx, ACCOUNT, {**arn, "tagKeys": ["a", "b"]}),
        "PutImage": put_images,
        "PutImageTagMutability": lambda: repository_settings.put_image_tag_mutability(
            tx, ACCOUNT, {**named, "imageTagMutability": "MUTABLE"}
        ),
        "ListImageReferrers": lambda: [
            referrers.list_image_referrers(
                tx, ACCOUNT, {**named, "subjectId": {"imageDigest": digest("subject")}, **more}
            )
            for more in ({}, {"filter": {"artifactTypes": ["a/b", "c/d"]}})
        ],
        "ListImages": listed,
        "DescribeImages": described,
        "BatchGetImage": lambda: images.batch_get_image(tx, ACCOUNT, {**named, **ids}),
        "delete_manifest": lambda: manifests.delete_manifest(tx, ACCOUNT, R, push.image("five", "v5")),
        "BatchCheckLayerAvailability": lambda: layers.batch_check_layer_availability(
            tx, ACCOUNT, {**named, "layerDigests": [digest("one"), digest("none"), "x"]}
        ),
        "GetDownloadUrlForLayer": lambda: layers.get_download_url_for_layer(
            tx, ACCOUNT, {**named, "layerDigest": digest("one")}
        ),
        "BatchDeleteImage": lambda: images.batch_delete_image(tx, ACCOUNT, {**named, **ids}),
        "expire_uploads": expired,
        "collect_blobs": miscounted,
        "DeleteRepository": lambda: repositories.delete_repository(tx, ACCOUNT, {**named, "force": True}),
        "remove_deleted": removed,
        "events.RemoveTargets": ruled("RemoveTargets", **rule, Ids=["a", "b"]),
        "events.DeleteRule": ruled("DeleteRule", Name="all"),
    }


def _faults(connection: Connection, fault: Callable[[Connection, str, Any], Iterator[str]]) -> list[str]:
    """What `fault` finds in the plan of each statement that each operation runs, with the operation's name."""
    ran: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            ran.append((statement, parameters[0] if many else parameters))

    found: list[str] = []
    with connection.begin():
        tx = Transaction(connection, 1_800_000_000.0, Registry(quotas=LIMITED))
        every = _every(tx)
        assert every.keys() == INTERNAL.keys() | ECR.keys() | {f"iam.{name}" for name in IAM} | {
            f"events.{name}" for name in event_rules.EVENTS
        }
        event.listen(connection, "before_cursor_execute", note)
        for name, run in every.items():
            ran.clear()
            run()
            for statement, parameters in list(ran):
                found += [f"{name}: {step}\n    {statement}" for step in fault(connection, statement, parameters)]
    return found


def _sqlite_faults(connection: Connection, statement: str, parameters: Any) -> Iterator[str]:
    for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
        step = row[3]
        scanned = step.startswith("SCAN ") and step.split()[1] not in SMALL | {"CONSTANT"}
        if scanned or step.startswith("USE TEMP B-TREE"):
            yield step


def _postgresql_faults(connection: Connection, statement: str, parameters: Any) -> Iterator[str]:
    """With scans and sorts switched off, PostgreSQL plans one only where no index serves."""
    [tree] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    yield from _postgresql_steps(tree["Plan"])


def _postgresql_steps(node: dict[str, Any]) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    if kind in ("Seq Scan", "Sort", "Incremental Sort") and table not in SMALL:
        yield f"{kind} {table or node.get('Sort Key')}"
    if kind.startswith(("Index", "Bitmap Index")) and "Index Cond" not in node and table not in SMALL:
        yield f"{kind} of all of {node['Index Name']}"
    for inner in node.get("Plans", ()):
        yield from _postgresql_steps(inner)


@pytest.fixture
def on_postgresql(tmp_path: Path) -> Iterator[Connection]:
    url = postgresql_database(tmp_path)
    PostgresqlDatabase(url).close()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as opened:
        for method in (*UNINDEXED, "enable_incremental_sort", "enable_hashagg"):
            opened.exec_driver_sql(f"SET {method} = off")
        opened.commit()
        yield opened
    engine.dispose()


def test_no_statement_of_any_operation_scans_a_big_table_or_sorts_what_an_index_could(connection: Connection) -> None:
    faults = _faults(connection, _sqlite_faults)
    assert not faults, "\n".join(faults)


def test_a_scan_would_be_found(connection: Connection) -> None:
    """The test above rests on the words of SQLite's plans: this is what it would see."""
    with connection.begin():
        scan = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM images WHERE kind = 'x'").all()
        sort = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM images ORDER BY kind").all()
    assert scan[0][3] == "SCAN images"
    assert sort[-1][3].startswith("USE TEMP B-TREE")


def test_a_batch_costs_as_many_statements_as_one_of_it(connection: Connection) -> None:
    """Of images by tag and by digest, and of repositories by name: a hundred are looked up at once."""
    ran: list[str] = []
    with connection.begin():
        tx = Transaction(connection, 1_800_000_000.0, Registry())
        accounts.bootstrap(tx, ACCOUNT)
        push = Push(tx)
        names = [f"v{number}" for number in range(20)]
        digests = [push.image(name, name) for name in names]
        for name in names:
            repositories.create_repository(tx, ACCOUNT, {"repositoryName": f"r/{name}"})
        event.listen(connection, "before_cursor_execute", lambda *told: ran.append(told[2]))

        def asked(count: int) -> int:
            ran.clear()
            ids = [{"imageTag": tag} for tag in names[:count]] + [{"imageDigest": each} for each in digests[:count]]
            for operation in (images.describe_images, images.batch_get_image):
                operation(tx, ACCOUNT, {"repositoryName": R, "imageIds": ids})
            named = {"repositoryNames": [f"r/{name}" for name in names[:count]]}
            assert len(repositories.describe_repositories(tx, ACCOUNT, named)["repositories"]) == count
            return len(ran)

        assert asked(1) == asked(20) > 0


def test_a_tag_of_many_goes_without_a_look_at_the_others(connection: Connection) -> None:
    """An image may have a thousand, and a batch may take a hundred of them."""
    with connection.begin():
        tx = Transaction(connection, 1_800_000_000.0, Registry())
        accounts.bootstrap(tx, ACCOUNT)
        Push(tx).image("one", "v1", "v2", "v3")
        ran: list[str] = []
        event.listen(connection, "before_cursor_execute", lambda *told: ran.append(told[2]))
        for tag, last in (("v1", False), ("v2", False), ("v3", True)):
            ran.clear()
            gone = images.batch_delete_image(tx, ACCOUNT, {"repositoryName": R, "imageIds": [{"imageTag": tag}]})
            assert [each.get("imageTag") for each in gone["imageIds"]] == [tag]
            assert any("tags.image_id = ?" in statement for statement in ran) is last, "it goes with its image"


def test_one_more_layer_outdates_nothing_that_is_kept_and_one_that_was_healed_does(connection: Connection) -> None:
    """Absence is kept by nobody; so no node need confirm a layer before its push goes on."""
    with connection.begin():
        tx = Transaction(connection, 1_800_000_000.0, Registry())
        accounts.bootstrap(tx, ACCOUNT)
        push = Push(tx)
        push.blob("one")
        repositories.create_repository(tx, ACCOUNT, {"repositoryName": "b/b"})
        tx.changes = Changes()
        two = push.blob("two")
        push.blob("two")
        blobs.mount_blob(tx, ACCOUNT, "b/b", digest("two"), R, CreateOnPush.NO)
        assert not tx.changes
        blobs.quarantine(tx, two.sealed.object_key, "a bad frame")
        healed = push.lease()
        for closing in (healed, healed):  # whoever committed may have been killed before it announced anything
            tx.changes = Changes()
            push.commit(closing, "two")
            assert tx.changes == Changes(repositories={(ACCOUNT, R), (ACCOUNT, "b/b")})


def test_a_repeated_commit_that_healed_nothing_outdates_nothing(connection: Connection) -> None:
    """By whichever request it is repeated, and whether the layer was new or there before."""
    with connection.begin():
        tx = Transaction(connection, 1_800_000_000.0, Registry())
        accounts.bootstrap(tx, ACCOUNT)
        push = Push(tx)
        closed = [push.lease(), push.lease()]
        for leased in closed:
            push.commit(leased, "one")
        tx.changes = Changes()
        for leased in closed:
            push.commit(leased, "one")
            uploads.close_upload(tx, ACCOUNT, R, leased.upload_id, digest("one"), 30.0, "another")
        assert not tx.changes


@pytest.mark.parametrize(("named", "everything"), [(2, False), (1, True)])
def test_a_changed_blob_outdates_those_who_link_it_or_everything_where_they_are_too_many_to_name(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, named: int, everything: bool
) -> None:
    """By its new key, its new object or its quarantine."""
    monkeypatch.setattr(blobs, "OUTDATED_MAX", named)
    with connection.begin():
        tx = Transaction(connection, 1_800_000_000.0, Registry())
        accounts.bootstrap(tx, ACCOUNT)
        blob = Push(tx).blob("one")
        for name in ("b/b", "c/c"):
            repositories.create_repository(tx, ACCOUNT, {"repositoryName": name})
        blobs.mount_blob(tx, ACCOUNT, "b/b", digest("one"), R, CreateOnPush.NO)
        key, new = blob.sealed.object_key, EncryptedDataKey("raw", b"key-2", b"wrapped")
        outdated = Changes(everything=True) if everything else Changes(repositories={(ACCOUNT, R), (ACCOUNT, "b/b")})
        for change in (
            partial(upkeep.replace_data_key, tx, key, DATA_KEY, new),
            partial(upkeep.replace_object, tx, key, blob),
            partial(blobs.quarantine, tx, key, "a bad frame"),
        ):
            tx.changes = Changes()
            reservations.reserve_object(tx, key, 60.0)  # for the new object
            change()
            assert tx.changes == outdated


@pytest.mark.needs(postgresql.PROGRAM)
def test_postgresql_has_an_index_for_every_statement_of_every_operation_too(on_postgresql: Connection) -> None:
    faults = _faults(on_postgresql, _postgresql_faults)
    assert not faults, "\n".join(faults)


@pytest.mark.needs(postgresql.PROGRAM)
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT * FROM images WHERE kind = 'x'", "Seq Scan images"),
        ("SELECT * FROM images WHERE repository_id = 1 ORDER BY kind", "Sort ['kind']"),
        ("SELECT repository_id FROM images ORDER BY repository_id, digest", "Index Scan of all of"),
    ],
)
def test_postgresql_would_tell(on_postgresql: Connection, statement: str, said: str) -> None:
    """The test above rests on the words of PostgreSQL's plans: this is what it would see."""
    with on_postgresql.begin():
        [found] = _postgresql_faults(on_postgresql, statement, ())
    assert found.replace("Index Only", "Index").startswith(said)


@pytest.mark.needs(postgresql.PROGRAM)
def test_a_service_on_postgresql_goes_by_the_index_whatever_it_knows_of_the_rows(tmp_path: Path) -> None:
    """Reading and writing, each with the plans that the tests above hold it to; also after it has migrated."""
    database = PostgresqlDatabase(postgresql_database(tmp_path))
    settings = (*UNINDEXED, "jit", "plan_cache_mode")

    def told(connection: Connection) -> list[Any]:
        return [connection.exec_driver_sql(f"SHOW {setting}").scalar() for setting in settings]

    assert database.read(told) == database.write(told) == ["off"] * (len(settings) - 1) + ["force_custom_plan"]
    database.close()
