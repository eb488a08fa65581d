"""Choose which parts of a plan to merge in a trial, and compute the time of all jobs from that of the parts."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from mergecore.api import ITEM_BYTES, TILE_ELEMENTS, Job
from mergecore.estimating.trial_run import Part, Timing, make_part
from mergecore.running import Options

TENSOR_SECONDS, BYTE_SECONDS = 3e-4, 1e-9
"""The time of a job before anything is measured, per tensor and per byte. Only their ratio matters."""

PILOT, LARGE = 2**16, 8 * TILE_ELEMENTS
"""Elements of the parts of large tensors in the first trial, and their maximum in the second."""

WHOLE = 2**24
"""Maximum elements of a part that is merged in one piece, which takes longer per element if it exceeds the caches."""

FEW, MANY = 8, 400
"""Minimum and maximum number of parts per stratum. If there are many strata or parts must be large, 2 are enough."""

TRIAL_BYTES = 2**27
"""Maximum number of bytes that a trial writes."""

STEEP = 1.4
"""Exponent above which the time of a method is taken to grow faster than its tensors, not only because of caches."""


@dataclass
class Stratum:
    """Jobs that take a similar time per element.

    Attributes:
        large: whether the jobs have more than a tile.
        whole: whether these are not cut into tiles, so that larger ones can take longer per element.
        jobs: the jobs.
        weights: the estimated time of each job, up to a common factor.
        held: the weights divided by the number of jobs that fit into memory at the same time.
        wall, cpu: seconds per unit of weight.
        steepness: how much the seconds per element grow with each further element.
    """

    large: bool
    whole: bool
    jobs: list[Job] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    wall: float = 1.0
    cpu: float = 1.0
    steepness: float = 0.0
    pace: tuple[float, float] | None = None
    """Mean elements of the parts in the last trial, and the mean seconds per element."""

    @property
    def seconds(self) -> float:
        """Seconds of all jobs, one after another."""
        return self.wall * sum(self.weights)

    @property
    def cpu_seconds(self) -> float:
        return self.cpu * sum(self.weights)

    @property
    def longest(self) -> float:
        return self.wall * max(self.weights)

    @property
    def threads(self) -> float:
        """The number of jobs that run at the same time."""
        return sum(self.weights) / sum(self.held)

    def draw(self, count: int, elements: int) -> Iterator[Part]:
        """Yield parts of about `elements` elements. Jobs with larger weights are more likely."""
        sums = list(accumulate(self.weights))
        shift, step = random.random(), sums[-1] / count
        for number in range(count):
            job = self.jobs[min(bisect.bisect(sums, (number + shift) * step), len(self.jobs) - 1)]
            yield make_part(job, random.randrange(job.info.elements), elements)

    def learn(self, timings: Sequence[Timing]) -> None:
        """Set the seconds per unit of weight."""
        weights = {id(job): weight for job, weight in zip(self.jobs, self.weights)}
        mine = [item for item in timings if id(item.part.job) in weights]
        if not mine:
            return
        if self.whole:
            self._compare(mine)
        self.wall = sum(self._whole_job(item, item.wall) / weights[id(item.part.job)] for item in mine) / len(mine)
        self.cpu = sum(self._whole_job(item, item.cpu) / weights[id(item.part.job)] for item in mine) / len(mine)

    def _whole_job(self, timing: Timing, seconds: float) -> float:
        """Return the seconds of the job of a part, given those of the part."""
        elements = timing.part.job.info.elements
        return elements * (seconds / timing.part.elements + self.steepness * (elements - timing.part.elements))

    def _compare(self, timings: Sequence[Timing]) -> None:
        """Compare parts with the smaller ones of an earlier trial, to find out how fast the time grows."""
        elements = sum(item.part.elements for item in timings)
        mean, pace = elements / len(timings), sum(item.wall for item in timings) / elements
        if self.pace is not None and mean > 2 * self.pace[0]:
            steep = pace / self.pace[1] > (mean / self.pace[0]) ** (STEEP - 1)
            self.steepness = (pace - self.pace[1]) / (mean - self.pace[0]) if steep else 0.0
        self.pace = mean, pace


def stratify(jobs: Sequence[Job], reads: Sequence[int], options: Options) -> list[Stratum]:
    """Group jobs by method, dtypes, bytes to read per element, and by whether they fit into a tile.

    Args:
        jobs: the jobs of a plan.
        reads: the bytes that each job reads.
        options: options of the run.
    """
    found: dict[object, Stratum] = {}
    for job, read in zip(jobs, reads):
        elements = job.info.elements
        if not elements:
            continue
        large = elements > TILE_ELEMENTS
        dtypes = tuple((item.info.dtype, item.info.stored, item.scratch_bytes > 0) for item in job.inputs)
        whole = large and job.is_whole
        key = (type(job.method), large, whole, dtypes, job.info.dtype, large and round(4 * read / elements))
        stratum = found.setdefault(key, Stratum(large, whole))
        weight = TENSOR_SECONDS + BYTE_SECONDS * (read + job.info.nbytes)
        stratum.jobs.append(job)
        stratum.weights.append(weight)
        together = options.memory // max(1, job.memory(TILE_ELEMENTS))
        stratum.held.append(weight / min(options.workers, max(1, together)))
    return list(found.values())


def allocate(strata: Sequence[Stratum], seconds: float, *, pilot: bool) -> list[Part]:
    """Return parts of all strata that together take about the given time in one thread.

    Each stratum gets the share of the time that it has in the whole plan. A pilot has small parts only.
    """
    total = sum(item.seconds for item in strata)
    parts: dict[str, Part] = {}
    for stratum in strata:
        elements = sum(job.info.elements for job in stratum.jobs)
        mean, pace, share = elements / len(stratum.jobs), stratum.seconds / elements, stratum.seconds / total * seconds
        most = PILOT if pilot else WHOLE if stratum.whole else LARGE
        few = 2 if stratum.whole or len(strata) > FEW else FEW
        count = min(MANY, max(few, round(share / pace / min(most, mean))))
        least = PILOT if pilot or stratum.whole else TILE_ELEMENTS
        size = max(least, min(most, int(share / pace / count)))
        parts |= {part.name: part for part in stratum.draw(count, size if stratum.large else TILE_ELEMENTS)}
    written = sum(part.elements * ITEM_BYTES[part.job.info.dtype] for part in parts.values())
    if written > TRIAL_BYTES:
        return allocate(strata, seconds * TRIAL_BYTES / written / 2, pilot=pilot)
    return list(parts.values())
