"""What any server is: processes that live and die together, sockets, limits, certificates, a directory of its own.

Nothing here knows that it serves a registry: no room of rows, blobs or doors is imported, only `observe`, `config` and
`model`. `supervisor` and `child` are the two ends of a fork; `http` holds requests to their limits and drains,
`connections` bounds their number (`limitedconnection`, `handshakes`, `filelimit`), `unproven` the bytes of those that
have proven nothing (`headerclock`, `boundedreads`), `memory` gives back what a flood took; `straight` reads a long body
past the parser, `draining` and `listening` close a port without cutting anyone, `forwarded` says whom to believe,
`logline` what is told of a request, `refusals` what is said before a door is asked; `tls` and `selfsigned` are
certificates; `datadir` draws what lies where on the disk.
"""
