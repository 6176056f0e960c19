"""Twenty statements as somebody might have them: five policies of four, of which only the last one's allow reaches."""

from __future__ import annotations

import json

ACCOUNT = "111122223333"


def twenty_statements(account: str = ACCOUNT, salt: str = "") -> list[str]:
    """Five documents: exact names, wildcards, variables, conditions. The last allows a token, and to push and pull
    anywhere from 10.0.0.0/8, 127.0.0.0/8 and 203.0.113.0/24; `salt` makes texts that nobody has seen."""
    return [document(account, f"folder-{number}{salt}", reaches=number == 4) for number in range(5)]


def document(account: str, folder: str, *, reaches: bool) -> str:
    below = f"arn:aws:ecr:*:{account}:repository/{folder}"
    statements = [
        {"Effect": "Allow", "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], "Resource": f"{below}/*"},
        {"Effect": "Allow", "Action": "ecr:*", "Resource": f"{below}/${{aws:PrincipalTag/team}}/*"},
        {
            "Effect": "Deny",
            "Action": "ecr:Delete*",
            "Resource": "*",
            "Condition": {"StringNotEquals": {"aws:PrincipalTag/team": ["blue", "green"]}},
        },
        {
            "Effect": "Allow",
            "Action": ["ecr:GetAuthorizationToken", "ecr:PutImage", "ecr:BatchGetImage"],
            "Resource": "*" if reaches else f"{below}/images/*",
            "Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "127.0.0.0/8", "203.0.113.0/24"]}},
        },
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})
