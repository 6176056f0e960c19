"""The load rig: pushes and pulls against any OCI registry, ours or another, and a report of how it answered.

`sizes`, `content` and `plan` say what is done, by a seed alone: the same seed gives the same names, digests and order.
`arrivals` says when. `address` and `challenge` decide where a request may go and with which credentials, `client` sends
it, `pushing`, `pulling` and `tagging` are what the clients of a registry do, and `crew` does it many times at once.
`histogram` and `tally` keep what was seen in bounded memory, `report` and `picture` tell it, `running` puts it all
together for the command.
Promises: no layer, listing or error is ever held whole; nothing is tried again, so that each answer counts; a password
or token is in no report. Whatever a server sends (addresses, lengths, bodies, links) is bounded and checked.
May import the model's names and limits, nothing of the server: it must not know whose registry it is asking.
Turned down: several processes (start the rig several times, with seeds of their own), and the package hdrhistogram,
which brings setuptools and pbr into every installation for the 40 lines that `histogram` needs.
"""
