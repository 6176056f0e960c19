"""STS, as far as a registry needs it: `aws sts get-caller-identity`, which tools call before anything else.

The query protocol: a form in, XML out (botocore's `sts` model, 2011-06-15). GetCallerIdentity needs no permission, a
good signature is enough. Every other action answers InvalidAction.
"""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qsl

from proxy.ecr.errors import STS_NAMESPACE, not_readable
from proxy.model.errors import Code, Failure
from proxy.model.identity import Principal

VERSION = "2011-06-15"
FIELDS_MAX = 100


def answer(principal: Principal, body: bytes, request_id: str) -> str:
    """The XML answer to a form; Unreadable, UnknownOperation (which this protocol calls InvalidAction)."""
    form = _read_form(body)
    action = form.get("Action", "")
    version = form.get("Version", VERSION)
    if action != "GetCallerIdentity" or version != VERSION:
        raise Failure(
            Code.UNKNOWN_OPERATION, f"Could not find operation {_shown(action)} for version {_shown(version)}."
        )
    return (
        f'<GetCallerIdentityResponse xmlns="{STS_NAMESPACE}"><GetCallerIdentityResult>'
        f"<Arn>{escape(principal.arn)}</Arn><UserId>{escape(principal.principal_id)}</UserId>"
        f"<Account>{escape(principal.account)}</Account></GetCallerIdentityResult>"
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )


def _read_form(body: bytes) -> dict[str, str]:
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise not_readable("The request body is not a form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise not_readable("The form has a field twice.")
    return form


def _shown(text: str) -> str:
    """Only what may stand in XML and is short is said back."""
    return text if 0 < len(text) <= 64 and text.isascii() and text.replace("-", "").isalnum() else "(not a name)"
