"""From `[replication]` to what replicates: how each region is reached, and the job that goes there."""

from __future__ import annotations

from proxy.app.context import WorkerContext
from proxy.app.router import make_blobs, make_uploads
from proxy.auth.access import Access
from proxy.auth.replication import ReplicationAccess
from proxy.config.settings import Config
from proxy.jobs.replication import Replicating, ReplicationTarget
from proxy.jobs.replication_here import HereTarget


def make_replicating(config: Config, context: WorkerContext) -> Replicating:
    """What replicates, for a worker's queue."""
    region = config.registry.region
    here = HereTarget(
        context.metadata,
        ReplicationAccess(Access(context.metadata), region=region),
        make_blobs(config, context),
        make_uploads(config, context),
        region=region,
    )
    targets: dict[str, ReplicationTarget] = {region: here}
    return Replicating(context.metadata, targets.get, region=region, at_once=config.replication.at_once)
