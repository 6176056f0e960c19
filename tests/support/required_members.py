"""What AWS sends every time though its models call it optional; Terraform and SDK users rely on it.

`ALWAYS` is by service and shape, `BESIDES` by service and operation: members of that one answer. Sources: the examples
of responses in the API references of ECR, STS and IAM, and for IAM what Terraform's provider reads unasked.
"""

from __future__ import annotations

from collections.abc import Mapping

_PERSON = ("Path", "Arn", "CreateDate")
_POLICY = (
    "PolicyName",
    "PolicyId",
    "Arn",
    "Path",
    "DefaultVersionId",
    "AttachmentCount",
    "PermissionsBoundaryUsageCount",
    "IsAttachable",
    "CreateDate",
    "UpdateDate",
)

_IAM: Mapping[str, tuple[str, ...]] = {
    "User": (*_PERSON, "UserName", "UserId"),
    "Group": (*_PERSON, "GroupName", "GroupId"),
    "Role": (*_PERSON, "RoleName", "RoleId", "AssumeRolePolicyDocument"),
    "Policy": _POLICY,
    "PolicyVersion": ("VersionId", "IsDefaultVersion", "CreateDate"),
    "AttachedPolicy": ("PolicyName", "PolicyArn"),
    "AttachedPermissionsBoundary": ("PermissionsBoundaryType", "PermissionsBoundaryArn"),
    "AccessKey": ("UserName", "AccessKeyId", "Status", "SecretAccessKey", "CreateDate"),
    "AccessKeyMetadata": ("UserName", "AccessKeyId", "Status", "CreateDate"),
    "AccessKeyLastUsed": ("ServiceName", "Region"),
    "PolicyGroup": ("GroupName", "GroupId"),
    "PolicyUser": ("UserName", "UserId"),
    "PolicyRole": ("RoleName", "RoleId"),
    "PolicyDetail": ("PolicyName", "PolicyDocument"),
    "UserDetail": (*_PERSON, "UserName", "UserId", "GroupList", "AttachedManagedPolicies"),
    "GroupDetail": (*_PERSON, "GroupName", "GroupId", "GroupPolicyList", "AttachedManagedPolicies"),
    "RoleDetail": (
        *_PERSON,
        "RoleName",
        "RoleId",
        "AssumeRolePolicyDocument",
        "InstanceProfileList",
        "RolePolicyList",
        "AttachedManagedPolicies",
        "RoleLastUsed",
    ),
    "ManagedPolicyDetail": (*_POLICY, "PolicyVersionList"),
    "OpenIDConnectProviderListEntry": ("Arn",),
    "CreateOpenIDConnectProviderResponse": ("OpenIDConnectProviderArn",),
    "GetOpenIDConnectProviderResponse": ("Url", "ClientIDList", "ThumbprintList", "CreateDate", "Tags"),
    "GetAccountSummaryResponse": ("SummaryMap",),
    "GetContextKeysForPolicyResponse": ("ContextKeyNames",),
    "SimulatePolicyResponse": ("EvaluationResults", "IsTruncated"),
    "EvaluationResult": ("EvalResourceName", "MatchedStatements", "MissingContextValues"),
    "ResourceSpecificResult": ("MatchedStatements", "MissingContextValues"),
    "Statement": ("SourcePolicyId", "SourcePolicyType", "StartPosition", "EndPosition"),
}

_IAM_BESIDES: Mapping[str, tuple[str, ...]] = {
    "GetPolicyVersion": ("PolicyVersion.Document",),
    "GetRole": ("Role.MaxSessionDuration", "Role.RoleLastUsed"),
    "GetPolicy": ("Policy.Tags",),
}


_RULE_VERBS = ("Create", "Update", "Delete", "Validate")
_OF_A_BACKFILL = ("replicationBackfillId", "destination", "status", "startedAt")
_OF_A_POLICY = ("registryId", "repositoryName", "lifecyclePolicyText")

_ECR: Mapping[str, tuple[str, ...]] = {
    "AuthorizationData": ("authorizationToken", "expiresAt", "proxyEndpoint"),
    "Repository": (
        "repositoryArn",
        "registryId",
        "repositoryName",
        "repositoryUri",
        "createdAt",
        "imageTagMutability",
        "imageScanningConfiguration",
        "encryptionConfiguration",
    ),
    "ImageScanningConfiguration": ("scanOnPush",),
    "ImageDetail": (
        "registryId",
        "repositoryName",
        "imageDigest",
        "imageSizeInBytes",
        "imagePushedAt",
        "imageManifestMediaType",
    ),
    "Image": ("registryId", "repositoryName", "imageId", "imageManifest", "imageManifestMediaType"),
    "ImageFailure": ("imageId", "failureCode", "failureReason"),
    "InitiateLayerUploadResponse": ("uploadId", "partSize"),
    "UploadLayerPartResponse": ("registryId", "repositoryName", "uploadId", "lastByteReceived"),
    "CompleteLayerUploadResponse": ("registryId", "repositoryName", "uploadId", "layerDigest"),
    "BatchCheckLayerAvailabilityResponse": ("layers", "failures"),
    "GetDownloadUrlForLayerResponse": ("downloadUrl", "layerDigest"),
    "Layer": ("layerDigest", "layerAvailability"),
    "LayerFailure": ("layerDigest", "failureCode", "failureReason"),
    "PutImageResponse": ("image",),
    "PutImageTagMutabilityResponse": ("registryId", "repositoryName", "imageTagMutability"),
    "BatchGetImageResponse": ("images", "failures"),
    "BatchDeleteImageResponse": ("imageIds", "failures"),
    "ListImageReferrersResponse": ("referrers",),
    "ImageReferrer": ("digest", "mediaType", "artifactType", "size", "artifactStatus"),
    "ListImagesResponse": ("imageIds",),
    "DescribeImagesResponse": ("imageDetails",),
    "PutReplicationConfigurationResponse": ("replicationConfiguration",),
    "ReplicationConfiguration": ("rules",),
    "DescribeImageReplicationStatusResponse": ("repositoryName", "imageId", "replicationStatuses"),
    "ImageReplicationStatus": ("region", "registryId", "status"),
    **{f"{verb}ReplicationBackfillResponse": (*_OF_A_BACKFILL, "registryId") for verb in ("Start", "Stop")},
    "ListReplicationBackfillsResponse": ("registryId", "backfills"),
    "DescribeReplicationBackfillResultsResponse": (*_OF_A_BACKFILL, "registryId", "results"),
    "ReplicationBackfillSummary": _OF_A_BACKFILL,
    "DescribeRegistryResponse": ("registryId", "replicationConfiguration"),
    "GetRegistryScanningConfigurationResponse": ("registryId", "scanningConfiguration"),
    "RegistryScanningConfiguration": ("scanType", "rules"),
    "PutImageScanningConfigurationResponse": ("registryId", "repositoryName", "imageScanningConfiguration"),
    "DescribeRepositoriesResponse": ("repositories",),
    "CreateRepositoryResponse": ("repository",),
    "DeleteRepositoryResponse": ("repository",),
    "GetAuthorizationTokenResponse": ("authorizationData",),
    "ListTagsForResourceResponse": ("tags",),
    **{
        f"{verb}RepositoryPolicyResponse": ("registryId", "repositoryName", "policyText")
        for verb in ("Set", "Get", "Delete")
    },
    **{f"{verb}RegistryPolicyResponse": ("registryId", "policyText") for verb in ("Put", "Get", "Delete")},
    "RepositoryCreationTemplate": (
        "prefix",
        "encryptionConfiguration",
        "resourceTags",
        "imageTagMutability",
        "appliedFor",
        "createdAt",
        "updatedAt",
    ),
    **{
        f"{verb}RepositoryCreationTemplateResponse": ("registryId", "repositoryCreationTemplate")
        for verb in ("Create", "Update", "Delete")
    },
    "DescribeRepositoryCreationTemplatesResponse": ("registryId", "repositoryCreationTemplates"),
    "RegisterPullTimeUpdateExclusionResponse": ("principalArn", "createdAt"),
    "DeregisterPullTimeUpdateExclusionResponse": ("principalArn",),
    "ListPullTimeUpdateExclusionsResponse": ("pullTimeUpdateExclusions",),
    **{f"{verb}AccountSettingResponse": ("name", "value") for verb in ("Put", "Get")},
    **{f"{verb}PullThroughCacheRuleResponse": ("ecrRepositoryPrefix", "registryId") for verb in _RULE_VERBS},
    "PullThroughCacheRule": ("ecrRepositoryPrefix", "upstreamRegistryUrl", "createdAt", "registryId"),
    "DescribePullThroughCacheRulesResponse": ("pullThroughCacheRules",),
    **{f"{verb}LifecyclePolicyResponse": _OF_A_POLICY for verb in ("Put", "Get", "Delete")},
    **{f"{verb}LifecyclePolicyPreviewResponse": (*_OF_A_POLICY, "status") for verb in ("Start", "Get")},
    "LifecyclePolicyPreviewSummary": ("expiringImageTotalCount",),
    "LifecyclePolicyPreviewResult": ("imageDigest", "imagePushedAt", "action", "appliedRulePriority"),
    "LifecyclePolicyRuleAction": ("type",),
    "TransitioningImageTotalCount": ("imageTotalCount",),
    "UpdateImageStorageClassResponse": ("registryId", "repositoryName", "imageId", "imageStatus"),
}

_ECR_BESIDES: Mapping[str, tuple[str, ...]] = {"PutImage": ("image.imageId.imageDigest",)}

_STS: Mapping[str, tuple[str, ...]] = {
    "GetCallerIdentityResponse": ("UserId", "Account", "Arn"),
    "GetAccessKeyInfoResponse": ("Account",),
    "GetSessionTokenResponse": ("Credentials",),
    "AssumeRoleResponse": ("Credentials", "AssumedRoleUser"),
    "AssumeRoleWithWebIdentityResponse": (
        "Credentials",
        "AssumedRoleUser",
        "SubjectFromWebIdentityToken",
        "Audience",
        "Provider",
    ),
}

ALWAYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {"ecr": _ECR, "sts": _STS, "iam": _IAM, "secretsmanager": {}}
BESIDES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ecr": _ECR_BESIDES,
    "sts": {},
    "iam": _IAM_BESIDES,
    "secretsmanager": {},
}
