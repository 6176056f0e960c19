"""Replication backfills: images that a registry has already, sent to one destination. Pure.

Source: botocore's `ecr` model, 1.44.8. It lists no failure codes: those of a backfill are ours, as those of images are.
"""

from __future__ import annotations

from enum import StrEnum

KIND = "backfill"  # of jobs


class BackfillStatus(StrEnum):
    """As the model has them."""

    PREPARING = "PREPARING"  # its images are being listed
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    STOPPING = "STOPPING"  # images that are being sent are waited for
    STOPPED = "STOPPED"


ENDED = (BackfillStatus.COMPLETE, BackfillStatus.FAILED, BackfillStatus.STOPPED)


class BackfillFailure(StrEnum):
    """Why a backfill failed as a whole."""

    DESTINATION_NOT_CONFIGURED = "DestinationNotConfigured"  # no rule has it any more


class ItemStatus(StrEnum):
    """Of one image and tag. The last two are the model's."""

    WAITING = "WAITING"
    QUEUED = "QUEUED"  # its replication job is in the queue
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
