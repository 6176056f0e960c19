"""Rules and targets, as the `events` API has them: the default event bus of an account, and no other.

`(transaction, account, parameters)` to the model's output. Input was validated against botocore's `events` model, and
targets by `ecr.eventbridge`, which knows where events may go. Source: botocore's `events` model; texts are
EventBridge's own where they were captured.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.db import paging
from proxy.metadata.db.event_tables import event_rules, event_targets
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.operation import Operation
from proxy.metadata.operations.repositories import Parameters
from proxy.model.errors import Code, Failure
from proxy.model.event_pattern import matches, parse_pattern

RULES_MAX = 300  # of an account, and
TARGETS_MAX = 5  # of a rule: EventBridge's quotas
TAGS_MAX = 50
_PAGE = 100


def put_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """An existing rule is replaced; its tags and targets stay."""
    name, text = parameters["Name"], parameters.get("EventPattern")
    if parameters.get("ScheduleExpression"):
        raise _invalid("ScheduleExpression is not supported here: rules are for events.")
    if not text:
        raise _invalid("Parameter(s) EventPattern or ScheduleExpression must be specified.")
    _parse(text)
    values = {
        "pattern": text,
        "enabled": parameters.get("State") != "DISABLED",
        "description": parameters.get("Description"),
        "role_arn": parameters.get("RoleArn"),
    }
    changed = tx.connection.execute(update(event_rules).where(*_named(account, name)).values(**values))
    if not changed.rowcount:
        mine = select(func.count()).select_from(event_rules).where(event_rules.c.account == account)
        if tx.connection.execute(mine).scalar_one() >= RULES_MAX:
            raise _too_many()
        tags = _merged([], parameters.get("Tags") or [])
        tx.connection.execute(
            insert(event_rules).values(account=account, name=name, tags=tags, created_at=tx.now, **values)
        )
    return {"RuleArn": rule_arn(tx, account, name)}


def describe_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _rule(tx, account, parameters["Name"])
    return {**_described(tx, account, row), "CreatedBy": account}


def list_rules(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    prefix, token = parameters.get("NamePrefix") or "", parameters.get("NextToken")
    listing, limit = ("events.ListRules", account, prefix), parameters.get("Limit") or _PAGE
    after = paging.read(listing, token, 1)[0] if token else ""
    rows = tx.connection.execute(
        select(event_rules)
        .where(
            event_rules.c.account == account,
            event_rules.c.name > after,
            event_rules.c.name >= prefix,
            event_rules.c.name < prefix + "\x7f",
        )
        .order_by(event_rules.c.name)
        .limit(limit + 1)
    ).all()
    answer: dict[str, Any] = {"Rules": [_described(tx, account, row) for row in rows[:limit]]}
    return answer | ({"NextToken": paging.issue(listing, [rows[limit - 1].name])} if len(rows) > limit else {})


def delete_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Succeeds for a rule that does not exist, as at AWS."""
    name = parameters["Name"]
    if _targets(tx, account, name, "", 1):
        raise _invalid("Rule can't be deleted since it has targets.")
    tx.connection.execute(delete(event_rules).where(*_named(account, name)))
    return {}


def enable_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return _enable(tx, account, parameters["Name"], True)


def disable_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return _enable(tx, account, parameters["Name"], False)


def put_targets(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name = parameters["Rule"]
    _rule(tx, account, name)
    for target in parameters["Targets"]:
        definition = json.dumps(target, separators=(",", ":"))
        mine = event_targets.c.account == account, event_targets.c.rule == name
        changed = tx.connection.execute(
            update(event_targets).where(*mine, event_targets.c.target_id == target["Id"]).values(definition=definition)
        )
        if changed.rowcount:
            continue
        if len(_targets(tx, account, name, "", TARGETS_MAX)) >= TARGETS_MAX:
            raise _too_many()
        tx.connection.execute(
            insert(event_targets).values(account=account, rule=name, target_id=target["Id"], definition=definition)
        )
    return {"FailedEntryCount": 0, "FailedEntries": []}


def remove_targets(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, failed = parameters["Rule"], []
    _rule(tx, account, name)
    for target_id in parameters["Ids"]:
        gone = tx.connection.execute(
            delete(event_targets).where(
                event_targets.c.account == account,
                event_targets.c.rule == name,
                event_targets.c.target_id == target_id,
            )
        )
        if not gone.rowcount:
            said = f"Rule {name} does not have target {target_id}."
            failed.append({"TargetId": target_id, "ErrorCode": "ResourceNotFoundException", "ErrorMessage": said})
    return {"FailedEntryCount": len(failed), "FailedEntries": failed}


def list_targets_by_rule(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name, token = parameters["Rule"], parameters.get("NextToken")
    _rule(tx, account, name)
    listing, limit = ("events.ListTargetsByRule", account, name), parameters.get("Limit") or _PAGE
    after = paging.read(listing, token, 1)[0] if token else ""
    rows = _targets(tx, account, name, after, limit + 1)
    answer: dict[str, Any] = {"Targets": [json.loads(row.definition) for row in rows[:limit]]}
    return answer | ({"NextToken": paging.issue(listing, [rows[limit - 1].target_id])} if len(rows) > limit else {})


def test_event_pattern(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    try:
        event = json.loads(parameters["Event"])
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise _invalid("Parameter Event is not valid.")
    return {"Result": matches(_parse(parameters["EventPattern"]), event)}


def tag_resource(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _of_arn(tx, account, parameters["ResourceARN"])
    _set_tags(tx, account, row.name, _merged(json.loads(row.tags), parameters["Tags"]))
    return {}


def untag_resource(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _of_arn(tx, account, parameters["ResourceARN"])
    left = [tag for tag in json.loads(row.tags) if tag["Key"] not in parameters["TagKeys"]]
    _set_tags(tx, account, row.name, json.dumps(left, separators=(",", ":")))
    return {}


def list_tags_for_resource(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return {"Tags": json.loads(_of_arn(tx, account, parameters["ResourceARN"]).tags)}


def rule_arn(tx: Transaction, account: str, name: str) -> str:
    return f"arn:aws:events:{tx.registry.region}:{account}:rule/{name}"


def _named(account: str, name: str) -> tuple[Any, Any]:
    return event_rules.c.account == account, event_rules.c.name == name


def _rule(tx: Transaction, account: str, name: str) -> FoundRow:
    row = tx.connection.execute(select(event_rules).where(*_named(account, name))).first()
    if row is None:
        raise Failure(Code.RESOURCE_NOT_FOUND, f"Rule {name} does not exist on EventBus default.")
    return row


def _of_arn(tx: Transaction, account: str, arn: str) -> FoundRow:
    prefix = rule_arn(tx, account, "")
    if not arn.startswith(prefix):
        raise Failure(Code.RESOURCE_NOT_FOUND, f"Rule {arn[:256]} does not exist on EventBus default.")
    return _rule(tx, account, arn.removeprefix(prefix).removeprefix("default/"))


def _described(tx: Transaction, account: str, row: FoundRow) -> dict[str, Any]:
    found = {
        "Name": row.name,
        "Arn": rule_arn(tx, account, row.name),
        "EventPattern": row.pattern,
        "State": "ENABLED" if row.enabled else "DISABLED",
        "Description": row.description,
        "RoleArn": row.role_arn,
        "EventBusName": "default",
    }
    return {member: value for member, value in found.items() if value is not None}


def _enable(tx: Transaction, account: str, name: str, enabled: bool) -> dict[str, Any]:
    _rule(tx, account, name)
    tx.connection.execute(update(event_rules).where(*_named(account, name)).values(enabled=enabled))
    return {}


def _targets(tx: Transaction, account: str, rule: str, after: str, limit: int) -> list[FoundRow]:
    return list(
        tx.connection.execute(
            select(event_targets)
            .where(event_targets.c.account == account, event_targets.c.rule == rule, event_targets.c.target_id > after)
            .order_by(event_targets.c.target_id)
            .limit(limit)
        )
    )


def _set_tags(tx: Transaction, account: str, name: str, tags: str) -> None:
    tx.connection.execute(update(event_rules).where(*_named(account, name)).values(tags=tags))


def _merged(held: list[dict[str, str]], given: list[dict[str, str]]) -> str:
    tags = {tag["Key"]: tag["Value"] for tag in (*held, *given)}
    if len(tags) > TAGS_MAX:
        raise _too_many()
    return json.dumps([{"Key": key, "Value": value} for key, value in tags.items()], separators=(",", ":"))


def _parse(text: str) -> Any:
    try:
        return parse_pattern(text)
    except ValueError as error:
        raise Failure(Code.INVALID_EVENT_PATTERN, f"Event pattern is not valid. Reason: {error}") from None


def _too_many() -> Failure:
    return Failure(Code.LIMIT_EXCEEDED, "The requested resource exceeds the maximum number allowed.")


def _invalid(message: str) -> Failure:
    return Failure(Code.VALIDATION, message)


EVENTS: dict[str, Operation] = {
    "DeleteRule": Operation(delete_rule, write=True),
    "DescribeRule": Operation(describe_rule),
    "DisableRule": Operation(disable_rule, write=True),
    "EnableRule": Operation(enable_rule, write=True),
    "ListRules": Operation(list_rules),
    "ListTagsForResource": Operation(list_tags_for_resource),
    "ListTargetsByRule": Operation(list_targets_by_rule),
    "PutRule": Operation(put_rule, write=True),
    "PutTargets": Operation(put_targets, write=True),
    "RemoveTargets": Operation(remove_targets, write=True),
    "TagResource": Operation(tag_resource, write=True),
    "TestEventPattern": Operation(test_event_pattern),
    "UntagResource": Operation(untag_resource, write=True),
}
"""Every operation of the `events` API that is served, by the model's name."""
