#!/usr/bin/env python3
"""Runs the attacks against the program: tests/attacks/run.py [--all] [NAME...]

Without a name it runs the quick ones, as tests/run.sh does; `--all` runs every one. Each is a separate process
with a time limit, and uses only loopback. POSTERN names the program; the default is target/debug/postern."""

import argparse
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent

# name: (time limit in seconds, True if tests/run.sh runs it)
ATTACKS = {
    "held_budget": (120, True),
    "unproven_bodies": (120, True),
    "silent_http": (120, True),
    "changed_body": (120, True),
    "sns_url": (120, True),
    "endless_rcpt": (60, True),
    "bare_lf": (60, True),
    "soak": (900, True),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", choices=[[], *ATTACKS], metavar="NAME")
    arguments.add_argument("--all", action="store_true")
    asked = arguments.parse_args()
    names = asked.names or [name for name, (_, quick) in ATTACKS.items() if quick or asked.all]
    failed = []
    for name in names:
        limit, _ = ATTACKS[name]
        begun = time.monotonic()
        try:
            ran = subprocess.run([sys.executable, "-B", FOLDER / f"{name}.py"], capture_output=True, text=True, timeout=limit)
            said, code = (ran.stdout + ran.stderr).strip(), ran.returncode
        except subprocess.TimeoutExpired:
            said, code = f"it takes more than {limit} s", 1
        print(f"{'FAIL' if code else 'ok  '} {name} ({time.monotonic() - begun:.0f} s): {said}", flush=True)
        if code:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {' '.join(failed)}")


if __name__ == "__main__":
    main()
