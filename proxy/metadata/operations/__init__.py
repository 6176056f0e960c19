"""Every operation of the service by name, and how it is run.

ECR operations have their own names and take (account, parameters); the internal ones have the names and parameters of
`contract.Metadata` and of `storage.base.OpenObjects`, and their signatures are their wire form. What is not in `ECR` is
refused as the model's unknown. One module a noun; functions take a `Transaction` and return records or, for ECR, the
model's JSON.
"""

from __future__ import annotations

from proxy.metadata.operations import (
    accounts,
    blobs,
    framehashes,
    identity,
    images,
    keys,
    manifests,
    openobjects,
    repositories,
    upkeep,
    uploads,
)
from proxy.metadata.operations.iam import accesskeys, resources, roles
from proxy.metadata.operations.operation import Operation as Operation

ECR: dict[str, Operation] = {
    "BatchDeleteImage": Operation(images.batch_delete_image, write=True),
    "BatchGetImage": Operation(images.batch_get_image),
    "CreateRepository": Operation(repositories.create_repository, write=True),
    "DeleteRepository": Operation(repositories.delete_repository, write=True),
    "DescribeImages": Operation(images.describe_images),
    "DescribeRepositories": Operation(repositories.describe_repositories),
    "ListImages": Operation(images.list_images),
}

INTERNAL: dict[str, Operation] = {
    "access_key": Operation(identity.access_key),
    "principal": Operation(identity.principal),
    "policy_documents": Operation(identity.policy_documents),
    "repository_access": Operation(identity.repository_access),
    "registry_access": Operation(identity.registry_access),
    "role": Operation(identity.role),
    "oidc_provider": Operation(identity.oidc_provider),
    "create_access_key": Operation(accesskeys.create_access_key, write=True),
    "note_key_use": Operation(accesskeys.note_key_use, write=True, settles=True),
    "note_role_use": Operation(roles.note_role_use, write=True, settles=True),
    "create_account": Operation(accounts.create_account, write=True),
    "accounts": Operation(accounts.list_accounts),
    "close_account": Operation(accounts.close_account, write=True),
    "iam_resource": Operation(resources.iam_resource),
    "blob": Operation(blobs.blob),
    "segments": Operation(blobs.segments),
    "frame_hashes": Operation(framehashes.frame_hashes),
    "mount_blob": Operation(blobs.mount_blob, write=True),
    "unlink_blob": Operation(blobs.unlink_blob, write=True),
    "quarantine": Operation(blobs.quarantine, write=True),
    "begin_upload": Operation(uploads.begin_upload, write=True, settles=True),
    "upload": Operation(uploads.upload),
    "lease_upload": Operation(uploads.lease_upload, write=True, settles=True),
    "renew_upload": Operation(uploads.renew_upload, write=True, settles=True),
    "keep_frame_hashes": Operation(uploads.keep_frame_hashes, write=True, settles=True),
    "advance_upload": Operation(uploads.advance_upload, write=True, settles=True),
    "release_upload": Operation(uploads.release_upload, write=True, settles=True),
    "commit_upload": Operation(uploads.commit_upload, write=True, settles=True),
    "cancel_upload": Operation(uploads.cancel_upload, write=True),
    "manifest": Operation(manifests.manifest),
    "put_manifest": Operation(manifests.put_manifest, write=True, prepare=manifests.examine),
    "delete_tag": Operation(manifests.delete_tag, write=True),
    "delete_manifest": Operation(manifests.delete_manifest, write=True),
    "tags": Operation(manifests.list_tags),
    "repositories": Operation(repositories.names),
    "referrers": Operation(manifests.referrers),
    "take_turn": Operation(upkeep.take_turn, write=True),
    "hold_blobs": Operation(upkeep.hold_blobs, write=True, settles=True),
    "expire_uploads": Operation(upkeep.expire_uploads, write=True),
    "collect_blobs": Operation(upkeep.collect_blobs, write=True),
    "known_objects": Operation(upkeep.known_objects),
    "objects": Operation(upkeep.objects),
    "replace_data_key": Operation(upkeep.replace_data_key, write=True),
    "replace_object": Operation(upkeep.replace_object, write=True),
    "key_records": Operation(keys.key_records),
    "record_key": Operation(keys.record_key, write=True),
    "sealed_secrets": Operation(keys.sealed_secrets),
    "replace_sealed_secret": Operation(keys.replace_sealed_secret, write=True),
    "open_uploads": Operation(keys.open_uploads),
    "open_object": Operation(openobjects.open_object),
    "keep_open_object": Operation(openobjects.keep_open_object, write=True),
    "cut_open_object": Operation(openobjects.cut_open_object, write=True),
    "open_object_parts": Operation(openobjects.open_object_parts),
    "open_object_tail": Operation(openobjects.open_object_tail),
    "drop_open_object": Operation(openobjects.drop_open_object, write=True),
    "open_objects": Operation(openobjects.open_objects),
    "ping": Operation(upkeep.ping),
}
