"""What is trained when: most nets have one phase, transfer learning has two."""

from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.phase import Phase
from fieldloop_cloud.train.transfer.phases import transfer_phases
from fieldloop_cloud.train.transfer.plan import TransferPlan


def phases(plan: NetPlan, settings: NetSettings) -> tuple[Phase, ...]:
    """Return the phases of a plan, in order."""
    if isinstance(plan, TransferPlan):
        return transfer_phases(plan, settings.epochs, settings.learning_rate)
    return (Phase("all", settings.epochs, settings.learning_rate),)
