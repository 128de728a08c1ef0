#!/usr/bin/env python3
"""Measures how Postern grows with its mappings (what it knows of each thread), from ten thousand on by tens.

Usage: benches/growth.py [--most 1000000] [--seconds 4] [--binary FILE] [--store-speed FILE] [--write]

`examples/store_speed` makes the mappings, each with one link of a Message-ID, in a data folder of its own, and
measures the look-ups. The server then opens that folder (until it listens), accepts mail with the API down, and
opens it again after its index was removed, so that it is rebuilt from the journal. Ten million mappings need about
an hour and 15 GB in the folder for temporary files. With --write the plot is docs/growth.svg, each
quantity relative to its value at the least number, because the values are those of one machine.
"""

import argparse
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from bench.measure import ROOT, Failure, Table, build, memory, new_folder, remove, send, stop_by_signal  # noqa: E402
from bench.servers import Postern  # noqa: E402

LEAST = 10_000
COLUMNS = {
    "accept": "accepted mails a second",
    "look_up": "µs for a look-up",
    "open": "s to open",
    "rebuild": "s to open with a rebuild of the index",
    "disk": "octets on disk for a mapping",
    "resident": "MiB resident after the open",
}


def disk(folder):
    """Octets on disk in this folder."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_blocks * 512 for stat in files)


def store_speed(program, *arguments):
    out = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=4 * 3600)
    return out.stdout


def microseconds(text):
    """A duration as Rust prints it."""
    number, unit = re.fullmatch(r"([\d.]+)(ns|µs|ms|s)", text).groups()
    return float(number) * {"ns": 1e-3, "µs": 1, "ms": 1e3, "s": 1e6}[unit]


def look_up(program, data, count):
    """Microseconds for one look-up of a mapping."""
    out = store_speed(program, "open", data, count)
    found, asked, took = re.search(r"(\d+) of (\d+) threads found in (\S+)", out).groups()
    if found != asked:
        raise Failure(f"{found} of {asked} threads were found among {count} mappings")
    return microseconds(took) / int(asked)


def measure(args, program, folder, count):
    """One row of the table."""
    data = folder / "data"
    store_speed(program, "map", data, count)
    row = {"count": count, "look_up": look_up(program, data, count)}
    row["disk"] = (disk(data / "journal") + disk(data / "index")) / count
    server = Postern(folder)
    try:
        row["open"], row["resident"] = server.opened, memory(server.pid) / 2**20
        result = send("smtp", server.port, server.recipients, sessions=20, seconds=args.seconds)
        row["accept"], server.accepted = result["per_second"], result["accepted"]
        server.check()
        server.stop()
        remove(data / "index")
        server.start()
        row["rebuild"] = server.opened
        server.check()
    finally:
        server.stop()
    # Each mapping is found after the rebuild too.
    look_up(program, data, count)
    return row


def table(rows):
    lines = [["mappings", *COLUMNS.values()]]
    lines += [[f"{row['count']:,}", *(f"{row[name]:.2f}" for name in COLUMNS)] for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join("  ".join(word.rjust(width) for word, width in zip(line, widths)) for line in lines)


def plot(rows):
    """The quantities relative to their first values, both axes logarithmic."""
    left, top, width, height, key = 60, 40, 480, 320, 290
    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#555555"]
    series = {name: [row[name] / rows[0][name] for row in rows] for name in COLUMNS}
    ends = [math.log10(value) for values in series.values() for value in values]
    low, high = math.floor(min(ends)), max(math.ceil(max(ends)), 1)
    first, last = (math.log10(rows[at]["count"]) for at in (0, -1))

    def x(count):
        return left + width * (math.log10(count) - first) / max(last - first, 1)

    def y(value):
        return top + height * (high - math.log10(value)) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + key}" height="{top + height + 50}" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{left}" y="20">Growth with the number of mappings: each quantity / its value at '
           f'{rows[0]["count"]:,}</text>']
    for power in range(low, high + 1):
        at = y(10 ** power)
        out.append(f'<path d="M{left} {at:.1f}H{left + width}" stroke="#dddddd"/>')
        out.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>')
    for row in rows:
        at = x(row["count"])
        out.append(f'<path d="M{at:.1f} {top}V{top + height}" stroke="#dddddd"/>')
        out.append(f'<text x="{at:.1f}" y="{top + height + 20}" text-anchor="middle">{row["count"]:,}</text>')
    for n, (name, values) in enumerate(series.items()):
        points = [(x(row["count"]), y(value)) for row, value in zip(rows, values)]
        line = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colours[n]}" stroke-width="2"/>')
        out += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colours[n]}"/>' for across, down in points]
        across, down = left + width + 20, top + 10 + 22 * n
        out.append(f'<path d="M{across} {down}h20" stroke="{colours[n]}" stroke-width="2"/>')
        out.append(f'<text x="{across + 28}" y="{down + 4}">{COLUMNS[name]}</text>')
    return "\n".join([*out, "</svg>", ""])


def judge(rows):
    """The first and the last row beside the goals."""
    first, last, results = rows[0], rows[-1], Table()
    most, millions = f"{last['count']:,} mappings", max(last["count"] / 1e6, 1)
    results.ratio(f"accept rate, {most} / {LEAST:,}", last["accept"] / first["accept"], ">= 0.9")
    results.ratio(f"look-up time, {most} / {LEAST:,}", last["look_up"] / first["look_up"], "<= 1.5")
    results.add(f"until it listens, {most}", last["open"], f"<= {millions:g}", " s")
    results.add(f"until it listens with a rebuild, {most}", last["rebuild"], f"<= {15 * millions:g}", " s")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="mappings of the last row, up to 10,000,000")
    parser.add_argument("--seconds", type=int, default=4, help="of accepting mail")
    parser.add_argument("--binary", type=pathlib.Path, help="a program to measure instead of a release build")
    parser.add_argument("--store-speed", type=pathlib.Path, help="the example's program instead of a release build")
    parser.add_argument("--write", action="store_true", help="write docs/growth.svg")
    args = parser.parse_args()
    if not LEAST < args.most <= 10_000_000:
        parser.error("--most is more than 10,000, up to 10,000,000")
    stop_by_signal()
    Postern.built = args.binary
    program = args.store_speed or build("postern", "--example", "store_speed", folder=ROOT) / "examples/store_speed"
    build("sender")
    counts = [LEAST * 10 ** n for n in range(4) if LEAST * 10 ** n < args.most] + [args.most]
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="postern-growth-") as top:
            print(f"{count:,} mappings (load average {os.getloadavg()[0]:.1f}) ...", flush=True)
            rows.append(measure(args, program, new_folder(top, "growth"), count))
    print(table(rows))
    if args.write:
        (ROOT / "docs/growth.svg").write_text(plot(rows))
    return 0 if judge(rows).print() else 1


if __name__ == "__main__":
    sys.exit(main())
