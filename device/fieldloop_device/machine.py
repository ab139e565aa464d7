"""The update's state machine: pure functions from records to records.

Nothing here touches disk, network or a model; `updater` drives it and stores every step before
it acts on it.

    idle → downloading → verified → staged → self-test → trial → committed
                     ↘ failed                     ↘ failed   ↘ rolled-back

Ordering rules, in one place:

1. A desired state whose `ver` is below the last accepted one is refused; the same one again only
   wakes up an update that stopped for a reason that may have passed.
2. A newer desired state supersedes an unfinished update. One on trial is rolled back first, so
   that the last good slot is never overwritten.
3. A hash that failed here is refused.
4. The release floor rises at commit and nowhere else, and never falls.
5. A trial is stored before the pointer moves; a verdict is stored before the pointer moves back.
6. A trial survives one restart (`TRIES`), because power cuts happen; the next one is the model's
   fault until proven otherwise.
"""

from typing import Literal

from msgspec.structs import replace

from fieldloop.device_root import Slot, other_slot
from fieldloop.state import DesiredState, HealthPolicy, Phase, SelfTestReceipt
from fieldloop_device.records import Job, Records, deny

TRIES = 1
MAX_SELF_TESTS = 3
UNFINISHED: tuple[Phase, ...] = ("downloading", "verified", "staged", "self-test", "trial")

Verdict = Literal["wait", "commit", "rollback"]


def is_unfinished(job: Job | None) -> bool:
    """Say whether an update is on its way."""
    return job is not None and job.phase in UNFINISHED


def accept(records: Records, desired: DesiredState, *, running_sha256: str) -> Records | None:
    """Take on a desired state.

    Returns:
        The new records; None if there is nothing to do: it is old, the same as before, or denied
        already under this version.
    """
    job = records.job
    if desired.ver < records.accepted_ver:
        return None
    if desired.ver == records.accepted_ver and not _may_resume(records, desired, running_sha256):
        return None
    if job is not None and is_unfinished(job) and desired.sha256 == job.desired.sha256:
        return replace(records, accepted_ver=desired.ver, job=replace(job, desired=desired))
    return replace(
        records, accepted_ver=desired.ver, job=_first_step(records, desired, running_sha256)
    )


def must_roll_back_first(records: Records, desired: DesiredState) -> bool:
    """Say whether a newer wish ends a trial: then the last good slot must be active again."""
    job = records.job
    return (
        job is not None
        and job.phase == "trial"
        and desired.ver > records.accepted_ver
        and desired.sha256 != job.desired.sha256
    )


def _may_resume(records: Records, desired: DesiredState, running_sha256: str) -> bool:
    job = records.job
    if job is None or desired.sha256 != job.desired.sha256:
        return False  # one version, two contents: the first one counts
    if desired.sha256 == running_sha256 or desired.sha256 in records.denied:
        return False
    # Committed but not running: the slot was lost since.
    return job.retry or job.phase == "committed"


def _first_step(records: Records, desired: DesiredState, running_sha256: str) -> Job:
    if desired.sha256 == running_sha256:
        return Job(desired=desired, phase="committed")
    if desired.sha256 in records.denied:
        return Job(
            desired=desired,
            phase="failed",
            error="this bundle failed on this device before; build a new release",
        )
    return Job(desired=desired, phase="downloading")


def advance(records: Records, phase: Phase, *, slot: Slot | None = None) -> Records:
    """Go on to the next phase before the trial."""
    job = _job(records)
    return replace(
        records,
        job=replace(
            job,
            phase=phase,
            slot=slot or job.slot,
            retry=False,
            error="",
        ),
    )


def begin_self_test(records: Records) -> Records:
    """Count a self-test before it begins, because the device may not survive it."""
    job = _job(records)
    return replace(records, job=replace(job, attempts=job.attempts + 1))


def fail(records: Records, error: str, *, blame: bool, retry: bool = False) -> Records:
    """End an update before its trial.

    Args:
        records: As they are.
        error: What went wrong.
        blame: Whether the bundle itself is bad, so that its hash is denied.
        retry: Whether the same wish may be taken up again later.
    """
    job = _job(records)
    failed = replace(records, job=replace(job, phase="failed", error=error, retry=retry))
    return deny(failed, job.desired.sha256) if blame else failed


def begin_trial(records: Records, receipt: SelfTestReceipt, *, active: Slot | None) -> Records:
    """Enter the trial; stored before the pointer moves to the new slot."""
    job = _job(records)
    assert job.slot is not None
    return replace(
        records,
        self_test=receipt,
        job=replace(
            job, phase="trial", tries=TRIES, previous=active or other_slot(job.slot), error=""
        ),
    )


def use_try(records: Records) -> Records | None:
    """Spend a try on a restart during the trial; None if none is left."""
    job = _job(records)
    if job.tries < 1 or job.rolling_back:
        return None
    return replace(records, job=replace(job, tries=job.tries - 1))


def judge(
    policy: HealthPolicy, *, answered: int, failed: int, elapsed_ms: int
) -> tuple[Verdict, str]:
    """Judge a trial by what happened since it began; the reason is for people.

    Example:
        >>> judge(HealthPolicy(min_predictions=5), answered=5, failed=0, elapsed_ms=2_000)
        ('commit', '')
    """
    total = answered + failed
    if total >= policy.min_predictions and failed > policy.max_error_rate * total:
        return "rollback", f"{failed} of {total} predictions failed on trial"
    if total >= policy.min_predictions and elapsed_ms >= policy.min_duration_ms:
        return "commit", ""
    if elapsed_ms >= policy.max_duration_ms:
        return (
            "rollback",
            (
                f"only {total} of {policy.min_predictions} predictions came within the trial's "
                f"{policy.max_duration_ms / 1000:g} s"
            ),
        )
    return "wait", ""


def commit(records: Records, *, release: int) -> Records:
    """End the trial well; raises the floor."""
    return replace(
        records,
        floor=max(records.floor, release),
        job=replace(_job(records), phase="committed", tries=0, error=""),
    )


def decide_rollback(records: Records, error: str, *, blame: bool) -> Records:
    """Decide to go back; stored before the pointer moves back."""
    job = _job(records)
    decided = replace(records, job=replace(job, rolling_back=True, error=error))
    return deny(decided, job.desired.sha256) if blame else decided


def finish_rollback(records: Records) -> Records:
    """The pointer is back where it was."""
    return replace(records, job=replace(_job(records), phase="rolled-back", rolling_back=False))


def _job(records: Records) -> Job:
    assert records.job is not None
    return records.job
