"""What commands do beside a running server, or without one.

`session` is what they share: it opens the data directory and reaches rows through a metadata service: the one that the
settings name, or the one that runs on the data directory, or one started in this process for the duration of the
command, which then holds the directory's lock as a server does. `accounts`, `credentials` and `access` manage accounts
and keys, `explain` explains a policy decision, `stored` checks and rewraps what is stored, `warming` fills the cache,
`migrations` moves rows and objects to another database or store, `backups` and `restores` copy a registry and bring it
back, `audit_logs` verifies audit logs, and `audit_trail` writes an audit event for a command that changes rights.
Progress goes to standard error, as a bar with ETA on a terminal. Called by `cli`.
"""
