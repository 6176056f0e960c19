"""The HTTP server, whatever it serves: aiohttp's server within limits.

`server` takes connections and requests (`limited_connection`, `connections`, `handshakes`, `header_timeout`,
`bounded_reads` and `unproven_budget` bound them) and writes one log line a request (`access_log`). `direct_body` reads
a body from its socket into the handler's buffers; `blob_response` and `body_writer` answer with a blob;
`response_cache` repeats small answers; `refusals` are answers without a handler; `forwarded` and `request_info` read
facts off a request; `listening`, `draining` and `stall` end connections; `tls` and `selfsigned` hold certificates.
Called by `app`, `oci` and `ecr`. Must not know a registry. May import `runtime`, `auth`, `observe`, `config` and
`model`.
"""
