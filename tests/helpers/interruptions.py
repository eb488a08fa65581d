"""Interrupt every command that writes at random moments, and check that nothing is lost and the next run completes it.

    python tests/helpers/interruptions.py --kills 200 --full-disks 60 [--seed 1] [--only evolve]

Each command runs on its own small disk in memory. A kill (SIGKILL or SIGTERM) or a full disk comes right before a
random one of its changes to the disk, or at a random time. Some disks are too small from the start. One command in ten
is a new `mergecore` process. The others are forks of a process that has imported torch, which saves seconds. After each
interruption:

- every output has its old or its new content (a folder as a whole),
- all other files are unchanged, and only the files of an unfinished run are left,
- a SIGTERM ended with status 143 (by the signal if Python was exiting), a full disk with a message that says so, and
  no process is left,
- the next run finishes with the same bytes as an undisturbed run, and leaves nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from interrupted_processes import Disk, Ended, Interruption, preload
from writing_commands import COMMANDS, WITH, Command, write_inputs

UNFINISHED = re.compile(r"(^|/)(\.[^/]*|[^/]*\.(partial|lock))(/|$)")
"""Paths that an interrupted command can leave: hidden drafts, OUT.partial, and OUT.lock."""

UNDISTURBED = Interruption("")


@dataclass
class State:
    """The contents of a folder: outputs, lines of the files that grow, and all other files."""

    outputs: dict[str, str]
    lines: dict[str, list[str]]
    others: dict[str, str]


def look(command: Command, place: Path) -> State:
    """Return the state of a folder that a command works in."""
    growing = {place / name for name in command.grows}
    written = [path for pattern in command.writes for path in place.glob(pattern) if path not in growing]
    written = [path for path in written if not UNFINISHED.search(str(path.relative_to(place)))]
    outputs = {str(path.relative_to(place)): _digest(path) for path in written}
    lines = {name: _lines(place / name) for name in command.grows}
    rest = (path for path in place.rglob("*") if path.is_file() and path not in growing)
    others = {
        str(path.relative_to(place)): _digest(path)
        for path in rest
        if not any(path == one or one in path.parents for one in written)
    }
    return State(outputs, lines, others)


def _digest(path: Path) -> str:
    """Return a digest of a file, or of all files in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts = [(str(file.relative_to(path)), file.read_bytes()) for file in files if file.is_file()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _lines(path: Path) -> list[str]:
    """Return the lines of a file without the times in them. The last one is empty if all are complete."""
    text = path.read_text("utf-8") if path.exists() else ""
    return re.sub(r'"when": [0-9.]+', "", text).split("\n")


@dataclass
class Tally:
    """What happened to one command."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Trials:
    """One command on one disk: the result of an undisturbed run, then interruptions."""

    def __init__(self, command: Command, disk: Disk, inputs: Path, root: Path) -> None:
        self.command, self.disk, self._inputs = command, disk, inputs
        self._saved = root / "saved" / command.name.replace(" ", "-")
        disk.restore()
        (disk.place / "mine.txt").write_text("mine")
        for earlier in command.before:
            self._undisturbed(earlier)
        disk.save(self._saved)
        self.old = look(command, disk.place)
        before = _used(disk.root)
        self.length = self._undisturbed(command.arguments)
        self.written = max(4096, _used(disk.root) - before)
        self.new = look(command, disk.place)
        self.tally = Tally()

    def _undisturbed(self, arguments: str) -> Ended:
        ended = self.disk.run(words(arguments, self._inputs), UNDISTURBED)
        if ended.status:
            raise SystemExit(f"mergecore {arguments} ended with {ended.status}:\n{ended.said}")
        return ended

    def interrupt(self, interruption: Interruption) -> None:
        """Interrupt the command once, check what is there, run it again, and check the result."""
        self.disk.restore(self._saved)
        arguments = words(self.command.arguments, self._inputs)
        ended = self.disk.run(arguments, interruption)
        self.disk.free()
        now = look(self.command, self.disk.place)
        finished = now.outputs == self.new.outputs
        faults = [*self._wrong_end(ended, interruption), *self._wrong_state(now)]
        again = None
        if ended.status:
            again = self.disk.run(arguments, UNDISTURBED)
            faults += self._wrong_result(again, finished)
        elif now.outputs != self.new.outputs or now.others != self.new.others:
            faults.append("ended with 0, but without the result")
        self._count(interruption, ended, now, again)
        said = "".join(f"\n{'':4}{line}" for run in (ended, again) if run for line in run.said.splitlines()[-4:])
        self.tally.faults += [f"{self.command.name}, {interruption}: {fault}{said}" for fault in faults]
        self.tally.counts["good"] += not faults

    def _wrong_end(self, ended: Ended, interruption: Interruption) -> Iterator[str]:
        kind, status = interruption.kind, ended.status
        allowed = {"SIGKILL": (-9, 0), "SIGTERM": (143, -15, 0), "full disk": (0, 1, 2)}[kind]
        if status not in allowed:
            yield f"ended with {status}"
        if "Traceback" in ended.said or "bug in mergecore" in ended.said:
            yield "printed an internal error"
        if kind == "full disk" and status and not re.search("No space left on device|free some space", ended.said):
            yield "did not say that the disk is full"
        if ended.orphans:
            yield f"left processes: {ended.orphans}"

    def _wrong_state(self, now: State) -> Iterator[str]:
        old, new = self.old, self.new
        for name in old.outputs.keys() | new.outputs.keys() | now.outputs.keys():
            if now.outputs.get(name) not in (old.outputs.get(name), new.outputs.get(name)):
                yield f"{name} is neither old nor new"
        for name, lines in now.lines.items():
            if not _grown(lines, old.lines[name], new.lines[name]):
                yield f"{name} has other lines: {lines}"
        kept, were = (
            {name: digest for name, digest in state.others.items() if not UNFINISHED.search(name)}
            for state in (now, old)
        )
        if kept != were:
            yield f"other files changed: {kept.keys() ^ were.keys() or kept.keys()}"

    def _wrong_result(self, again: Ended, finished: bool) -> Iterator[str]:
        refused = finished and again.status == 2 and "already exists" in again.said
        if again.status and not refused:
            yield f"the next run ended with {again.status}"
            return
        result = look(self.command, self.disk.place)
        if result.outputs != self.new.outputs:
            names = self.new.outputs.keys() | result.outputs.keys()
            yield f"other bytes: {[n for n in names if result.outputs.get(n) != self.new.outputs.get(n)]}"
        others = {name: digest for name, digest in result.others.items() if not name.startswith(self.command.strays)}
        if others != self.new.others and not refused:
            yield f"left: {sorted(others.keys() ^ self.new.others.keys())}"
        for name, lines in result.lines.items():
            if set(lines) != set(self.new.lines[name]) or lines[-1]:
                yield f"{name} has other lines: {lines}"

    def _count(self, interruption: Interruption, ended: Ended, now: State, again: Ended | None) -> None:
        counts = self.tally.counts
        counts[interruption.kind] += 1
        if now.outputs == self.new.outputs and self.new.outputs:
            counts["new"] += 1
        elif now.outputs == self.old.outputs:
            counts["old"] += 1
        else:
            counts["some new"] += 1
        counts["finished"] += ended.status == 0
        counts["resumed"] += again is not None and "resuming" in again.said


def _grown(lines: list[str], old: list[str], new: list[str]) -> bool:
    """Return whether complete lines were added to the old ones, apart from the last one, which can be incomplete."""
    whole = len(old) - 1
    return lines[:whole] == old[:whole] and set(lines[whole:-1]) <= set(new)


def _used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_bsize


def words(arguments: str, inputs: Path) -> list[str]:
    return arguments.replace("INPUTS", str(inputs)).split()


def draw(kind: str, length: Ended, written: int, randomly: random.Random) -> Interruption:
    """Draw the moment of an interruption."""
    how = randomly.random()
    if kind == "full disk" and how < 0.4:
        return Interruption(kind="full disk", space=randomly.randrange(0, written * 5 // 4, 4096))
    if how < 0.7:
        calls = randomly.choice((0, 0, *range(1, 9)))
        return Interruption(kind, step=randomly.randint(1, max(1, length.steps)), calls=calls)
    real = how > 0.9
    return Interruption(kind, after=max(1e-4, randomly.uniform(0, length.seconds * (1.5 if real else 1))), real=real)


def kinds(kills: int, full_disks: int) -> list[str]:
    """Return the kinds of all interruptions. A third of the kills are SIGTERM."""
    return ["SIGTERM" if number % 3 == 2 else "SIGKILL" for number in range(kills)] + ["full disk"] * full_disks


def run_all(commands: list[Command], kills: int, full_disks: int, seed: int, root: Path) -> dict[str, Tally]:
    """Spread interruptions over commands, two at a time. Return what happened, by command."""
    preload(evaluating=any(WITH in command.arguments for command in commands))
    inputs, disks = root / "inputs", queue.SimpleQueue[Disk]()
    for number in range(2):
        disks.put(Disk(root / f"disk-{number}"))
    first = disks.get()
    if not first.mounted and full_disks:
        sys.stdout.write("full disks are left out, because this machine does not let us mount a disk in memory\n")
        full_disks = 0
    first.restore()

    def prepare(line: str) -> None:
        ended = first.run(words(line, inputs), UNDISTURBED)
        if ended.status:
            raise SystemExit(f"mergecore {line} ended with {ended.status}:\n{ended.said}")

    write_inputs(inputs, commands, prepare)
    disks.put(first)
    untouched = _digest(inputs)
    plan: dict[str, list[str]] = {command.name: [] for command in commands}
    for number, kind in enumerate(kinds(kills, full_disks)):
        plan[commands[number % len(commands)].name].append(kind)

    def work(command: Command) -> Tally:
        disk = disks.get()
        try:
            trials, randomly = Trials(command, disk, inputs, root), random.Random(f"{seed} {command.name}")
            for kind in plan[command.name]:
                trials.interrupt(draw(kind, trials.length, trials.written, randomly))
            return trials.tally
        finally:
            disks.put(disk)

    with ThreadPoolExecutor(2) as pool:
        tallies = dict(zip(plan, pool.map(work, commands)))
    if _digest(inputs) != untouched:
        tallies[commands[0].name].faults.append("the inputs changed")
    return tallies


COLUMNS = ("SIGKILL", "SIGTERM", "full disk", "old", "some new", "new", "finished", "resumed", "good")


def show(tallies: Mapping[str, Tally]) -> None:
    """Print the table, its sums, and the faults."""
    width = max(map(len, tallies))
    lines = [f"{'command':{width}}  {'  '.join(COLUMNS)}"]
    rows = {name: tally.counts for name, tally in tallies.items()}
    for name, counts in {**rows, "all": sum(rows.values(), Counter())}.items():
        lines.append(f"{name:{width}}  " + "  ".join(f"{counts[column]:{len(column)}}" for column in COLUMNS))
    lines += [f"\nFAULT {fault}" for tally in tallies.values() for fault in tally.faults]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    """Run the interruptions. Return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--full-disks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], help="name of a command")
    given = parser.parse_args()
    commands = [command for command in COMMANDS if command.name in given.only or not given.only]
    root = Path(tempfile.mkdtemp(prefix="interruptions-"))
    try:
        tallies = run_all(commands, given.kills, given.full_disks, given.seed, root)
    finally:
        for disk in root.glob("disk-?"):
            os.system(f"umount {disk} 2>/dev/null")
        shutil.rmtree(root, ignore_errors=True)
    show(tallies)
    return int(any(tally.faults for tally in tallies.values()))


def in_namespace() -> None:
    """Start over in a namespace where this user can mount disks, if there is such a thing."""
    if os.environ.get("INTERRUPTIONS") or not shutil.which("unshare"):
        return
    if os.system("unshare -rm true 2>/dev/null") == 0:
        os.environ["INTERRUPTIONS"] = "in a namespace"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])


if __name__ == "__main__":
    in_namespace()
    sys.exit(main())
