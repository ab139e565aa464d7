"""Field traffic with known truth: rows go to device processes, answers are compared.

A row is fed to one device under an id of its own; the id comes back with the answer and with a
field sample, so the truth can be joined to either. A device that dies before it answered gets its
open rows again when it is back, as a sensor with a queue would give them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fieldloop.signature import Category
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.fleet.simulate import DeviceProcess
from fieldloop_cloud.train.metrics import Estimate, estimate

ANSWER_TIMEOUT_S = 60.0
TICKS_PER_S = 5

Hook = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows that were sent, in order.

    Attributes:
        row_ids: Ids of the rows.
        device_names: Which device each row went to.
        sent_s: When, on `time.monotonic`'s scale.
    """

    row_ids: tuple[str, ...]
    device_names: tuple[str, ...]
    sent_s: tuple[float, ...]


@dataclass(slots=True)
class Traffic:
    """Feeds a fleet of device processes from data sets whose truth is known.

    Attributes:
        devices: The running processes.
        rows_per_s: How fast rows come in, over all devices.
        truths: The true label of every row that was sent, by row id.
    """

    devices: Sequence[DeviceProcess]
    rows_per_s: float = 60.0
    truths: dict[str, Category] = field(default_factory=dict)
    _open: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def rows_per_tick(self) -> int:
        """Rows between two calls of `send`'s `tick`."""
        return max(1, int(self.rows_per_s / TICKS_PER_S))

    def send(self, data: Dataset, *, prefix: str, tick: Hook | None = None) -> Batch:
        """Feed every row of `data` once, round robin over the devices, at `rows_per_s`.

        Args:
            data: Rows and truth.
            prefix: Makes the ids unique: `<prefix>-<row>`.
            tick: Called `TICKS_PER_S` times a second while rows go out.
        """
        ids, names, moments = [], [], []
        started = time.monotonic()
        for index in range(len(data)):
            device = self.devices[index % len(self.devices)]
            row_id = f"{prefix}-{index}"
            self.truths[row_id] = data.labels[int(data.y[index])]
            self._open.setdefault(device.name, {})[row_id] = data.raw(index)
            device.feed([(row_id, self._open[device.name][row_id])])
            ids.append(row_id)
            names.append(device.name)
            moments.append(time.monotonic())
            if (index + 1) % self.rows_per_tick == 0:
                if tick is not None:
                    tick()
                ahead = started + (index + 1) / self.rows_per_s - time.monotonic()
                time.sleep(max(0.0, ahead))
        return Batch(row_ids=tuple(ids), device_names=tuple(names), sent_s=tuple(moments))

    def restart(self, device: DeviceProcess) -> int:
        """Start a dead device and give it the rows it never answered; returns how many."""
        device.start()
        unanswered = {
            row_id: raw
            for row_id, raw in self._open.get(device.name, {}).items()
            if row_id not in device.answers
        }
        device.feed(list(unanswered.items()))
        return len(unanswered)

    def answers(self, batch: Batch) -> list[dict[str, Any]]:
        """Wait for and return the answers of a batch, in its order.

        Raises:
            NotConnectedError: A device is gone or did not answer in time.
        """
        by_name = {device.name: device for device in self.devices}
        found: dict[str, dict[str, Any]] = {}
        for name, device in by_name.items():
            mine = [
                row_id
                for row_id, owner in zip(batch.row_ids, batch.device_names, strict=True)
                if owner == name
            ]
            answers = device.wait_for(mine, timeout_s=ANSWER_TIMEOUT_S)
            found.update(zip(mine, answers, strict=True))
            for row_id in mine:
                self._open[name].pop(row_id, None)
        return [found[row_id] for row_id in batch.row_ids]

    def right(self, batch: Batch) -> list[bool]:
        """Say for each row whether its answer is the truth; a refused row is wrong."""
        return [
            self.truths[row_id] == answer.get("label")
            for row_id, answer in zip(batch.row_ids, self.answers(batch), strict=True)
        ]

    def accuracy(self, batch: Batch) -> Estimate:
        """Return the share of right answers, with Wilson's interval."""
        right = np.array(self.right(batch), dtype=np.int64)
        return estimate("accuracy", np.ones_like(right), right)
