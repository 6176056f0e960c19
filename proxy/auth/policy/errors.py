"""The error of the policy compiler. ECR, IAM and STS each put their own words before its text."""

from __future__ import annotations


class PolicyError(Exception):
    """`reason` is a sentence; `statement` is the statement's number, from 1 on, 0 for the whole document."""

    def __init__(self, reason: str, statement: int = 0, sid: str = "") -> None:
        self.reason = reason
        self.statement = statement
        self.sid = sid

    @property
    def location(self) -> str:
        """The statement, as text that follows the reason; empty for the document as a whole."""
        if not self.statement:
            return ""
        return f" (in statement {self.statement}{f', {self.sid[:64]}' if self.sid else ''})"

    def __str__(self) -> str:
        return self.reason + self.location
