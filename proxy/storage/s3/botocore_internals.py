"""Every private member of botocore and aiobotocore that this server uses, each with its reason.

`test_botocore_internals` fails when one of them has another shape, and when another module uses one. Used by `requests`
and `session`.
"""

from __future__ import annotations

from typing import Any


def http_session(client: Any) -> Any:
    """The HTTP session of a client, whose connections requests without botocore share."""
    return client._endpoint.http_session


async def frozen_credentials(client: Any) -> Any:
    """A client's current access key, secret key and token, refreshed if they are due. botocore signs with them."""
    return await client._request_signer._credentials.get_frozen_credentials()


def proxy_url(session: Any, url: str) -> str | None:
    """The proxy that an AIOHTTPSession would use for a URL: such requests are left to it."""
    found: str | None = session._proxy_config.proxy_url_for(url)
    return found


def tls_context(session: Any) -> Any:
    """The SSLContext of an AIOHTTPSession, by its `verify` setting. Reads files: for a thread."""
    return session._build_verify_context()
