"""Processes and files of a server: `supervisor` forks and restarts `child` processes, `data_directory` holds the data
directory and its lock, `file_limit` raises the limit of open files, `memory` returns free memory to the system.

Called by `app` and `admin`. May import `auth`, `observe`, `config` and `model`.
"""
