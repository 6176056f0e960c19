"""Policies, tags and filters come back letter for letter, through the door and the rows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import allow, repository
from support.registry_client import RegistryClient, registry_client

NAME = "as/given"
_LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # what every database keeps
_SPACE = st.text(" \n\r\t", max_size=4)
_FILTER = st.fixed_dictionaries(
    {"filterType": st.just("WILDCARD"), "filter": st.from_regex(r"[0-9a-zA-Z._-]{1,9}\*?", fullmatch=True)}
)
_FILTERS = st.lists(_FILTER, min_size=1, max_size=5)
_TAG = st.fixed_dictionaries(
    {"Key": st.text(_LETTERS, min_size=1, max_size=128), "Value": st.text(_LETTERS, max_size=256)}
)
_TAGS = st.lists(_TAG, max_size=5, unique_by=lambda tag: tag["Key"].lower()).filter(
    lambda tags: not any(tag["Key"].lower().startswith("aws:") for tag in tags)
)


@st.composite
def _written(draw: st.DrawFn, *, resource: bool) -> str:
    """A policy as people and programs write it."""
    more = {"Resource": repository("*")} if resource else {}
    condition = {"StringLike": {"aws:username": draw(st.text(_LETTERS, max_size=20))}}
    statement = allow(["ecr:CreateRepository"], Principal="*", Condition=condition, **more)
    members = {"Version": "2012-10-17", "Statement": [dict(draw(st.permutations(list(statement.items()))))]}
    document = dict(draw(st.permutations(list(members.items()))))
    text = json.dumps(document, indent=draw(st.sampled_from([None, 1, "\t"])), ensure_ascii=draw(st.booleans()))
    return draw(_SPACE) + text + draw(_SPACE)


def test_policies_tags_and_filters_come_back_as_they_were_given(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        opened = registry_client(tmp_path)
        doors = runner.run(opened.__aenter__())

        @settings(max_examples=25, database=None)
        @given(_written(resource=False), _written(resource=True), _TAGS, _FILTERS)
        def examples(policy: str, registry_policy: str, tags: list[Any], filters: list[Any]) -> None:
            runner.run(_round(doors, policy, registry_policy, tags, filters))

        try:
            examples()
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def _round(doors: RegistryClient, policy: str, registry_policy: str, tags: list[Any], filters: list[Any]) -> None:
    async def ask(operation: str, **parameters: Any) -> Any:
        answer = await doors.ask("ecr", operation, parameters, doors.keys["administrator"])
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    mode = {"imageTagMutability": "MUTABLE_WITH_EXCLUSION", "imageTagMutabilityExclusionFilters": filters}
    settled = {**mode, "resourceTags": tags, "repositoryPolicy": policy, "lifecyclePolicy": ' {"rules":  []}\n'}
    template = {"prefix": NAME, "appliedFor": ["REPLICATION", "CREATE_ON_PUSH"], **settled}
    made = (await ask("CreateRepository", repositoryName=NAME, tags=tags, **mode))["repository"]
    try:
        (described,) = (await ask("DescribeRepositories", repositoryNames=[NAME]))["repositories"]
        for found in (made, described):
            assert {member: found[member] for member in mode} == mode
        listed = (await ask("ListTagsForResource", resourceArn=repository(NAME)))["tags"]
        assert sorted(listed, key=_key) == sorted(tags, key=_key)
        set_ = await ask("SetRepositoryPolicy", repositoryName=NAME, policyText=policy, force=True)
        got = await ask("GetRepositoryPolicy", repositoryName=NAME)
        assert set_["policyText"] == got["policyText"] == policy
        put = await ask("PutRegistryPolicy", policyText=registry_policy)
        assert put["policyText"] == (await ask("GetRegistryPolicy"))["policyText"] == registry_policy
        await ask("CreateRepositoryCreationTemplate", **template)
        (kept,) = (await ask("DescribeRepositoryCreationTemplates", prefixes=[NAME]))["repositoryCreationTemplates"]
        assert {member: kept[member] for member in template} == template
        await ask("DeleteRepositoryCreationTemplate", prefix=NAME)
    finally:
        await ask("DeleteRepository", repositoryName=NAME)


def _key(tag: dict[str, str]) -> str:
    return tag["Key"]
