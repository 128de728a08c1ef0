#!/usr/bin/env python3
"""Runs the attacks against the program: tests/attacks/run.py [--all] [NAME...]

Without a name it runs the quick ones, which are those that tests/run.sh runs; `--all` runs every one. Each is a
process of its own with a bound on its time, and talks to loopback only. POSTERN names the program; without it,
it is target/debug/postern."""

import argparse
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent

# name: (seconds it may take, whether tests/run.sh runs it, rows of the hostile list)
ATTACKS = {
    "held_budget": (120, True, "E2 E3 G4"),
    "unproven_bodies": (120, True, "I2 E3"),
    "silent_http": (120, True, "I2 E1"),
    "changed_body": (120, True, "I5 I6 G2"),
    "sns_url": (120, True, "E8 I4"),
    "endless_rcpt": (60, True, "C5"),
    "bare_lf": (60, True, "A10"),
    "soak": (900, True, "E8 E9 I5 K10"),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", choices=[[], *ATTACKS], metavar="NAME")
    arguments.add_argument("--all", action="store_true")
    asked = arguments.parse_args()
    names = asked.names or [name for name, (_, quick, _) in ATTACKS.items() if quick or asked.all]
    failed = []
    for name in names:
        limit, _, rows = ATTACKS[name]
        begun = time.monotonic()
        try:
            ran = subprocess.run([sys.executable, "-B", FOLDER / f"{name}.py"], capture_output=True, text=True, timeout=limit)
            said, code = (ran.stdout + ran.stderr).strip(), ran.returncode
        except subprocess.TimeoutExpired:
            said, code = f"it takes more than {limit} s", 1
        print(f"{'FAIL' if code else 'ok  '} {name} ({rows}; {time.monotonic() - begun:.0f} s): {said}", flush=True)
        if code:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
