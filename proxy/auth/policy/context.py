"""What a request says of itself, and the condition keys that follow from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """Facts of one request, whichever door it came to. `now` is epoch seconds; `source_ip` is empty where the peer is
    no IP address; `region` is the region asked (aws:RequestedRegion)."""

    now: float
    source_ip: str
    secure: bool
    user_agent: str
    region: str
