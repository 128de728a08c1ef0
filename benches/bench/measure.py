"""The load, what is read of a process, and the table of results. Starts no server."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """A measurement that cannot count: a mail was lost, refused or parked, or a server does not run."""


class Table:
    """The results beside their goals, printed as they come and once more at the end."""

    def __init__(self):
        self.rows = []

    def add(self, measure, value, goal, unit=""):
        """Adds a result; `goal` is a relation and a number, as in ">= 12"."""
        relation, wanted = goal.split()
        reached = value >= float(wanted) if relation == ">=" else value <= float(wanted)
        self.rows.append((measure, f"{number(value)}{unit}", f"{goal}{unit}", "yes" if reached else "no"))
        print(f"{measure}: {number(value)}{unit} (goal {goal}{unit}): {'reached' if reached else 'not reached'}",
              flush=True)

    def ratio(self, measure, value, goal):
        self.add(f"ratio {measure}", value, goal)

    def fail(self, name, reason):
        print(f"{name}: FAILED: {reason}", flush=True)
        self.rows.append((name, "failed", "see above", "no"))

    def print(self):
        load = " ".join(f"{value:.2f}" for value in os.getloadavg())
        print(f"\n== summary (load average {load}, {os.cpu_count()} processors)")
        rows = [("measure", "value", "goal", "reached"), *self.rows]
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        for row in rows:
            print("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())
        return all(row[3] == "yes" for row in self.rows)


def number(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def build(name, *extra, folder=None):
    """A release build; its folder. The crates under benches/ have their own target folders."""
    folder = folder or ROOT / "benches" / name
    target = ROOT / "target" / (name if folder != ROOT else "")
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", folder / "Cargo.toml",
                    "--target-dir", target, *extra], check=True)
    return target / "release"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Failure(f"nothing listens on {port}")


def wait_until(wanted, seconds, words):
    """Returns the time at which `wanted` became true."""
    end = time.monotonic() + seconds
    while not wanted():
        if time.monotonic() > end:
            raise Failure(f"after {seconds} s still not: {words}")
        time.sleep(0.02)
    return time.monotonic()


def stop_by_signal():
    """Makes SIGTERM end the run like Ctrl-C: the servers stop, and their folders are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Load:
    """The sender, running in a process of its own."""

    def __init__(self, kind, port, recipients, **options):
        arguments = [build("sender") / "sender", kind, f"127.0.0.1:{port}"]
        for recipient in recipients:
            arguments += ["--to", recipient]
        for name, value in options.items():
            arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        self.began = time.monotonic()
        self.seconds_max = options.get("seconds", 1200) + 120
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self):
        """The line of the sender as a dictionary; a refused mail ends the measurement."""
        try:
            out, errors = self.process.communicate(timeout=self.seconds_max)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise Failure("the sender does not end") from None
        if self.process.returncode:
            raise Failure(f"the sender ended: {errors[:400]}")
        result = json.loads(out)
        if result["failed"] or not result["accepted"]:
            raise Failure(f"{result['failed']} failed, {result['accepted']} accepted: {errors[:400]}")
        return result


def send(kind, port, recipients, **options):
    return Load(kind, port, recipients, **options).result()


def user_seconds(pid):
    """User CPU of the process so far (proc_pid_stat(5), field 14)."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rsplit(")", 1)[1].split()[11]) / TICKS


def memory(pid, field="VmRSS", file="status"):
    """Octets of memory, by the field's name."""
    found = re.search(rf"^{field}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/{file}").read_text(), re.M)
    return int(found.group(1)) * 1024


class Peak:
    """The largest resident memory of a process while the block runs."""

    def __init__(self, pid):
        self.pid, self.bytes, self.done = pid, 0, threading.Event()

    def watch(self):
        while not self.done.wait(0.2):
            self.bytes = max(self.bytes, memory(self.pid))

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def median(values):
    return statistics.median(list(values))


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def rates_line(name, values):
    print(f"{name:28} median {median(values):9.0f} a second   ({' '.join(f'{value:.0f}' for value in values)})", flush=True)


def new_folder(top, name):
    path = pathlib.Path(top) / name
    path.mkdir()
    return path


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
