"""The measurements of the outbox, of memory and of system calls. Each is a function of the run."""

import base64
import concurrent.futures
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time

from .measure import ROOT, Failure, Load, Peak, memory, median, new_folder, rates_line, send, wait_until
from .receiving import Stage
from .servers import SECRET, Relay

DOMAINS = 50
IDLE = (1000, 10_000)
BODIES = 8
BODY_BYTES = 26 << 20


def outbox(run, table):
    """Jobs requested, composed, signed and handed to a relay, beside Postfix relaying as many mails to it."""
    people = [f"person@peer{n}.test" for n in range(DOMAINS)]
    with Stage(run, "outbox") as stage:
        relays = {name: stage.up(Relay(new_folder(stage.folder, f"relay-{name}"))) for name in ("postfix", "postern")}
        postfix = stage.postfix(relay=relays["postfix"])
        server = stage.postern(relay=relays["postern"])
        doors = {"postfix": ("smtp", postfix.port, 4096, ""), "postern": ("jobs", server.http, 1600, SECRET)}
        rates = {name: [] for name in doors}
        for _ in range(run.rounds):
            for name, (kind, port, size, key) in doors.items():
                relay = relays[name]
                wanted = relay.count() + run.jobs
                load = Load(kind, port, people, sessions=20, count=run.jobs, size=size, key=key)
                load.result()
                ended = wait_until(lambda: relay.count() >= wanted, 300, f"the relay of {name} has all mails")
                rates[name].append(run.jobs / (ended - load.began))
                postfix.settle()
                if relay.count() != wanted:
                    raise Failure(f"the relay of {name} has {relay.count()} mails, not {wanted}")
        wanted = run.rounds * run.jobs
        wait_until(lambda: server.gauges("postern_outbox").get("sent") == wanted, 30,
                   f"{wanted} jobs are sent: {server.gauges('postern_outbox')}")
        for name, values in rates.items():
            rates_line(name, values)
        table.ratio("outbox, jobs to a relay / Postfix", median(rates["postern"]) / median(rates["postfix"]), ">= 2")


def idle(run, table):
    """Memory of connections that have said EHLO and are silent (proportional set size)."""
    with Stage(run, "idle") as stage:
        server = stage.postern()
        for count in IDLE:
            rest, held = memory(server.pid, "Pss", "smaps_rollup"), []
            try:
                for _ in range(count):
                    peer = socket.create_connection(("127.0.0.1", server.port), 10)
                    held.append(peer)
                    greeting = peer.recv(4096)
                    peer.sendall(b"EHLO idle.bench.test\r\n")
                    if not greeting.startswith(b"220") or not peer.recv(4096).startswith(b"250"):
                        raise Failure(f"connection {len(held)} is not greeted")
                used = (memory(server.pid, "Pss", "smaps_rollup") - rest) / count
            finally:
                for peer in held:
                    peer.close()
            print(f"{count} idle connections: {used / 1024:.2f} KiB each")
            time.sleep(2)
        table.add(f"idle connection, of {count}", used / 1024, "<= 3", " KiB")


def bodies(run, table):
    """Resident memory after large webhook bodies at a time, once their mails are delivered."""
    with Stage(run, "bodies") as stage:
        product = stage.product()
        server = stage.postern(product.url)
        server.accepted += send("hook", server.http, server.recipients, sessions=4, count=200, key=SECRET)["accepted"]
        server.settle()
        time.sleep(2)
        rest = memory(server.pid)
        requests = [signed_body(server.recipients[n], n) for n in range(BODIES)]
        with Peak(server.pid) as peak, concurrent.futures.ThreadPoolExecutor(BODIES) as callers:
            refused = sum(callers.map(lambda request: post(server.http, *request), requests))
            server.settle()
        server.accepted += BODIES
        server.check()
        grown = []
        for _ in range(15):
            time.sleep(2)
            grown.append((memory(server.pid) - rest) / 2**20)
        print(f"{refused} requests were answered 503 first; rest {rest >> 20} MiB, peak {peak.bytes >> 20} MiB, "
              f"above rest after 2 s {grown[0]:.0f} MiB, after 30 s {grown[-1]:.0f} MiB")
        table.add(f"memory above rest, 30 s after {BODIES} webhook bodies of 26 MiB", grown[-1], "<= 50", " MiB")


def signed_body(recipient, n):
    """A request with a mail whose attachment fills the body."""
    # The file is in base64 with line ends of two octets, and the mail is in base64 again.
    file = random.Random(n).randbytes(BODY_BYTES * 9 // 16 * 76 // 78 - 4096)
    lines = base64.encodebytes(file).replace(b"\n", b"\r\n")
    mail = (f"From: <ann@client.bench.test>\r\nSubject: large {n}\r\nMessage-ID: <large-{n}@client.bench.test>\r\n"
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=edge\r\n\r\n--edge\r\n\r\nThe file is here.\r\n"
            "--edge\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=a.bin\r\n"
            "Content-Transfer-Encoding: base64\r\n\r\n").encode() + lines + b"--edge--\r\n"
    body = json.dumps({"envelope": {"to": [recipient], "from": "ann@client.bench.test"},
                       "raw": base64.b64encode(mail).decode()}).encode()
    now = str(int(time.time() * 1000))
    signature = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return body, {"Content-Type": "application/json", "X-Webhook-Timestamp": now, "X-Webhook-Signature": signature}


def post(port, body, fields):
    """Posts it as a provider does, again after 503 or an end before the answer. Returns the number of those."""
    for again in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request("POST", "/gateway/inbound/generic", body, fields)
            answer = connection.getresponse()
            status, words = answer.status, answer.read(300)
        except ConnectionError:
            # The server ends a request that it refuses before it has read all of it.
            status, words = 503, b""
        finally:
            connection.close()
        if status == 200:
            return again
        if status != 503:
            raise Failure(f"a body of {len(body)} octets is answered {status} {words}")
        time.sleep(0.2)
    raise Failure(f"a body of {len(body)} octets is always answered 503")


def understand(run, table):
    """Understanding a mail, without I/O: its parts, its kind, its fingerprint, its reply."""
    if run.binary and not run.understand:
        print("not measured: --binary is not this source, and --understand names no program")
        return
    command = [run.understand] if run.understand else ["cargo", "bench", "--quiet", "--bench", "understand"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    micros = {name.strip(): float(value) for name, value in re.findall(r"^(.+?) +\d+ octets +([\d.]+) µs", out, re.M)}
    for name, goal in (("4 KiB text", 60), ("4 KiB text and HTML", 60), ("64 KiB HTML", 1000)):
        table.add(f"understanding, {name}", micros[name], f"<= {goal}", " µs")


def trace(run, _table):
    """Shows the system calls around each 250: nothing is acknowledged before fdatasync has returned."""
    log = pathlib.Path(run.top) / "strace"
    with Stage(run, "trace") as stage:
        calls = "trace=fdatasync,sendto,write,writev"
        server = stage.postern(wrap=["strace", "-f", "-tt", "-e", calls, "-s", "60", "-o", log])
        # The signal must go to Postern, not to strace.
        child = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True).stdout.split()
        stage.callback(os.kill, int(child[0]), signal.SIGTERM)
        send("smtp", server.port, server.recipients, sessions=20, seconds=2)
    syncs = kept = 0
    for line in log.read_text(errors="replace").splitlines():
        syncs += bool(re.search(r"fdatasync\(\d+\) += 0|fdatasync resumed>\) += 0", line))
        kept += line.count("250 2.0.0 ")
    if not syncs:
        raise Failure("no fdatasync in the trace")
    print(f"strace: {kept} mails answered 250, {syncs} fdatasync: {kept / syncs:.1f} mails a sync (no goal)")


ROWS = {"understand": understand, "outbox": outbox, "idle": idle, "bodies": bodies, "trace": trace}
