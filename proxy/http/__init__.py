"""The HTTP server: aiohttp's server within limits, for any handler.

`server` accepts connections and requests; `limited_connection`, `connections`, `handshakes`, `header_timeout`,
`bounded_reads`, `unproven_budget` and `stall` bound them, and `access_log` writes a log line for each. `direct_body`
reads a body from its socket into the handler's buffers, `expect` answers `Expect`; `blob_response` and `body_writer`
send a blob; `response_cache` repeats small responses; `refusals` renders errors without a handler; `forwarded` and
`request_info` read facts about a request; `listening` and `draining` close a server; `tls` and `selfsigned` hold
certificates. `aiohttp_internals` lists the private members of aiohttp in use.
Called by `app`, `oci` and `ecr`. Must not know a registry. May import `runtime`, `auth`, `observe`, `config` and
`model`.
"""
