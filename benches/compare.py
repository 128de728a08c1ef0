#!/usr/bin/env python3
"""Measures Postern side by side with Postfix and a server that discards mail, and prints each result beside its goal.

Usage: benches/compare.py [--rounds 5] [--seconds 4] [--only NAME]... [--binary FILE] [--before FILE]
       [--backlog 200000] [--jobs 2000] [--long 60]

Needs root, and Postfix, openssl and strace from Debian. All traffic goes to loopback and is bounded in time. The
servers take turns within each round, because a machine is shared and noisy: the results are ratios of medians;
the rates beside them are not comparable with other machines. Each measurement starts and stops its own servers,
and fails if a mail was lost, refused or parked, or was posted twice. benches/README.md lists the measurements.
With --before an earlier build of Postern takes its turns as well, and the ratios of the two are printed.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from bench import others, receiving  # noqa: E402
from bench.measure import Failure, Table, build, stop_by_signal  # noqa: E402
from bench.servers import Postern  # noqa: E402

ROWS = {**receiving.ROWS, **others.ROWS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each round")
    parser.add_argument("--long", type=int, default=60, help="seconds of the one long run")
    parser.add_argument("--backlog", type=int, default=200_000, help="mails that wait while the API is down")
    parser.add_argument("--jobs", type=int, default=2_000, help="mails to the relay in each round")
    parser.add_argument("--binary", type=pathlib.Path, help="a program to measure instead of a release build")
    parser.add_argument("--before", type=pathlib.Path, help="an earlier build that takes turns with it")
    parser.add_argument("--understand", type=pathlib.Path, help="the built bench `understand` instead of cargo bench")
    parser.add_argument("--only", choices=ROWS, action="append")
    run = parser.parse_args()
    stop_by_signal()
    Postern.built = run.binary
    # The peers hold thousands of connections, and so does Postern, which inherits the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for tool in ("sender", "product", "sink"):
        build(tool)
    table = Table()
    with tempfile.TemporaryDirectory(prefix="postern-bench-") as run.top:
        # Postfix' own user needs access.
        os.chmod(run.top, 0o755)
        for name, measure in ROWS.items():
            if run.only and name not in run.only:
                continue
            load = os.getloadavg()[0]
            print(f"\n== {name}: {measure.__doc__.splitlines()[0]} (load average {load:.1f})", flush=True)
            began = time.monotonic()
            try:
                measure(run, table)
            except (Failure, OSError, subprocess.SubprocessError) as failure:
                table.fail(name, str(failure))
            print(f"   {time.monotonic() - began:.0f} s")
    return 0 if table.print() else 1


if __name__ == "__main__":
    sys.exit(main())
