"""Commands that work beside a running server or without one.

`stored` checks and rewraps what is stored, `warming` reads it into the cache, `moves` takes it elsewhere, `backups` and
`restores` keep it and bring it back, `access` gives out keys and tokens, `accounts` opens and closes accounts and tells
who somebody is, `credentials` lists, rotates and revokes keys, `explain` says why a policy decides as it does; what
they share is in `visiting` and `audited`. Promises: rows are asked
of a metadata service: those that the settings name, or the one that runs on the data directory, else one that lives in
this process for the command's duration, holding the directory like a server (`migrate-metadata`, which has two
databases, is alone with them; a backup copies the rows of one moment from the database itself).
Progress goes to standard error, as a bar with ETA on a terminal; what was found goes to `say`. Must not know how a
check or a rewrap is done.
"""
