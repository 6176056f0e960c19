"""From the message of a frame to the frame that answers it: hello, arguments, transaction, result or failure.

`service` makes these functions for its sockets. They decode a request's parameters by the annotations of the function
that is registered under its operation, and run it in the transaction that it needs. Must not know any operation's
meaning, nor how frames arrive.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
from sqlalchemy.exc import DataError

from proxy import observe
from proxy.awsmodel.validation import unknown_operation, validate
from proxy.metadata import wire
from proxy.metadata.db.store import Store
from proxy.metadata.deadlines import Deadline, read_deadline
from proxy.metadata.operations import ECR, INTERNAL, Operation
from proxy.metadata.operations.event_rules import EVENTS
from proxy.metadata.operations.iam import IAM
from proxy.metadata.service.connection import Greet, RefuseSize, Respond
from proxy.metadata.service.idempotency import request_id, run_once
from proxy.model.errors import Code, Failure

if TYPE_CHECKING:  # the driver is loaded by those who use it
    from proxy.metadata.cluster.membership import Membership


def hello_handler(store: Store, secret: str | None) -> Greet:
    """Makes the function that answers a hello: a refusal without the secret, or for another version."""

    def greet(message: bytes) -> tuple[bytearray, bool]:
        refusal = None
        try:
            hello: wire.Hello = wire.unpack(wire.Hello, message)
            if hello.version != wire.VERSION:
                raise Failure(
                    Code.METADATA_UNAVAILABLE, f"this metadata service speaks version {wire.VERSION} of its protocol"
                )
            authenticate(hello.secret, secret)
        except Failure as failure:
            refusal = refusal_fields(failure)
        except ValueError:
            refusal = refusal_fields(Failure(Code.INVALID_PARAMETER, "the hello has the wrong form"))
        return wire.frame(wire.Welcome(wire.VERSION, store.now(), refusal)), refusal is None

    return greet


def request_handler(store: Store, membership: Membership | None) -> Respond:
    """Makes the function that answers a request, also with failures; the answer's time is that of its end."""

    async def answer(message: bytes) -> bytearray:
        name = ""
        try:
            request = _request(message)
            name = request.operation
            if name == wire.WARNINGS:
                result: Any = warnings(store, membership)
            else:
                asked = _Call(request_id(request.id), read_deadline(request.made, request.within, store.now()))
                result = await _run(store, name, request.parameters, asked)
            return _framed(store, result)
        except Failure as failure:
            return _refused(store, failure)
        except UnicodeEncodeError:
            return _refused(store, Failure(Code.INVALID_PARAMETER, "a text in the request is not valid Unicode"))
        except DataError:  # PostgreSQL: a NUL in a text, or a value that does not fit its column
            return _refused(store, Failure(Code.INVALID_PARAMETER, "a value in the request cannot be stored"))
        except Exception:  # a bug: it is logged here, and the proxy gets no details
            observe.log.exception("metadata operation failed", operation=name)
            return _refused(store, Failure(Code.SERVER, "internal error of the metadata service"))

    return answer


def size_refusal(store: Store) -> RefuseSize:
    """The answer to a request beyond the size bound."""
    return lambda: _refused(store, Failure(Code.INVALID_PARAMETER, f"a request has at most {wire.REQUEST_MAX} bytes"))


def _request(message: bytes) -> wire.OperationRequest:
    try:
        request: wire.OperationRequest = wire.unpack(wire.OperationRequest, message)
    except (ValueError, RecursionError) as error:
        raise Failure(Code.INVALID_PARAMETER, f"the request has the wrong form: {error}") from error
    return request


def _framed(store: Store, result: Any) -> bytearray:
    framed = wire.frame((True, store.now(), result))  # as `wire.OperationAnswer`, encoded at once
    if len(framed) > wire.ANSWER_MAX:
        raise Failure(Code.LIMIT_EXCEEDED, "the answer to this request would be too large", hint="ask for less at once")
    return framed


def _refused(store: Store, failure: Failure) -> bytearray:
    return wire.frame((False, store.now(), refusal_fields(failure)))


def warnings(store: Store, membership: Membership | None) -> Sequence[str]:
    """Problems that do not stop the service."""
    return [*store.warnings(), *(membership.warnings() if membership is not None else ())]


@dataclass(frozen=True, slots=True)
class _Call:
    """A request's id and deadline."""

    request: str | None
    deadline: Deadline


async def _run(store: Store, name: str, parameters: msgspec.Raw, asked: _Call) -> Any:
    """The result of an operation."""
    operation = INTERNAL.get(name)
    if operation is None:
        return await _api(store, name, parameters, asked)
    arguments = _arguments(operation, parameters)
    if operation.prepare is not None:
        arguments = await store.compute(partial(operation.prepare, **arguments))
    return await _in_transaction(store, name, operation, partial(operation.run, **arguments), asked)


async def _in_transaction(store: Store, name: str, operation: Operation, run: Callable[..., Any], asked: _Call) -> Any:
    if not operation.write:
        return await store.read(run)
    if asked.request is None or operation.settles:
        return await store.write(run, deadline=asked.deadline, durable=operation.durable)
    once = partial(run_once, request=asked.request, operation=name, wanted=_answer(operation.run), run=run)
    return await store.write(once, deadline=asked.deadline)


async def _api(store: Store, name: str, asked_with: msgspec.Raw, asked: _Call) -> Any:
    """An operation of a public API: `CreateRepository` of `ecr`, or `iam.CreateUser`."""
    service, _, operation_name = name.rpartition(".")
    known: Mapping[str, Operation] = {"": ECR, "iam": IAM, "events": EVENTS}.get(service, {})
    operation = known.get(operation_name)
    if operation is None:
        raise unknown_operation(name)
    body = _unpacked(dict[str, Any], asked_with)
    account, parameters = body.get("account"), body.get("parameters")
    if not isinstance(account, str):
        raise Failure(Code.INVALID_PARAMETER, "account is missing")
    if not service:  # input of `iam` and `events` was validated before the caller was authorized
        await store.compute(partial(validate, operation_name, parameters))
    arguments = {"account": account, "parameters": parameters}
    if operation.prepare is not None:
        arguments = await store.compute(partial(operation.prepare, **arguments))
    run = partial(operation.run, **arguments)
    return await _in_transaction(store, name, operation, run, asked)


def _arguments(operation: Operation, parameters: msgspec.Raw) -> dict[str, Any]:
    form = _form(operation.prepare or operation.run)
    return wire.members(_unpacked(form, parameters, hint=f"its parameters are {_names(form)}"))


def _unpacked(wanted: Any, content: msgspec.Raw, *, hint: str = "") -> Any:
    try:
        return wire.unpack(wanted, content)
    except (ValueError, RecursionError) as error:
        raise Failure(Code.INVALID_PARAMETER, f"the request has the wrong form: {error}", hint=hint) from error


@cache
def _form(function: Callable[..., Any]) -> Any:
    return wire.parameters(function, without=("tx", "return"))


@cache
def _names(form: Any) -> str:
    return ", ".join(form.__struct_fields__) or "none"


@cache
def _answer(function: Callable[..., Any]) -> Any:
    """The annotation of what it returns."""
    return get_type_hints(function)["return"]


def authenticate(given: str, secret: str | None) -> None:
    if secret and not hmac.compare_digest(given.encode(errors="surrogateescape"), secret.encode()):
        raise Failure(Code.ACCESS_DENIED, "the shared secret of the metadata service is missing or wrong")


def refusal_fields(failure: Failure) -> dict[str, Any]:
    fields = {name: value for name, value in failure.fields.items() if name not in ("__type", "message", "hint")}
    return {**fields, "__type": str(failure.code), "message": failure.message, "hint": failure.hint}
