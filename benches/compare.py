#!/usr/bin/env python3
"""Measures Postern side by side with Postfix and a server that discards mail, in one run.

Usage: benches/compare.py [--rounds 5] [--seconds 4] [--shared DIR] [--binary FILE] [--before FILE]
       [--only rates|idle|trace]

Needs root, Postfix and strace from Debian. All traffic goes to loopback and is bounded in time. The three
servers take turns within each round, because the machine is shared and noisy: the results are ratios
of medians; the rates beside them are not comparable with other machines. If mail is delivered as well, the
rate counts from the first mail to the last delivery, and an undelivered mail ends the run.
With --before an earlier build of Postern takes its turns as well, and the ratios of the two are printed.
"""

import argparse
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
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOMAIN = "inbox.bench.test"
SECRET = "a secret made for benches only, worth nothing elsewhere"


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
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def build(folder, target, *extra):
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--manifest-path", str(folder / "Cargo.toml"), *extra],
        check=True,
        env={**os.environ, "CARGO_TARGET_DIR": str(target)},
    )
    return target / "release"


class Sink:
    """`mailin-embedded`, which stores nothing."""

    name = "sink"

    def __init__(self, _folder):
        self.port = free_port()
        binary = build(ROOT / "benches/sink", ROOT / "target/sink") / "sink"
        self.process = subprocess.Popen([binary, f"127.0.0.1:{self.port}"])
        self.recipients = [f"ann@{DOMAIN}"]
        wait_for(self.port)

    def settle(self):
        time.sleep(0.5)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Postfix:
    """Postfix with its defaults for durability; its queue manager discards the accepted mail."""

    name = "postfix"

    def __init__(self, folder):
        self.port = free_port()
        self.folder = pathlib.Path(folder)
        self.folder.chmod(0o755)
        for part in ("conf", "queue", "data"):
            (self.folder / part).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self.folder / "queue",
            "data_directory": self.folder / "data",
            "maillog_file": self.folder / "maillog",
            "maillog_file_prefixes": self.folder,
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": "mx.bench.test",
            "mydestination": "",
            "alias_maps": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "virtual_mailbox_domains": DOMAIN,
            "virtual_transport": "discard:",
            "in_flow_delay": "0",
        }
        (self.folder / "conf/main.cf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        daemons = """cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
        (self.folder / "conf/master.cf").write_text(f"127.0.0.1:{self.port} inet n - n - - smtpd\n{daemons}")
        self.recipients = [f"ann@{DOMAIN}"]
        self.command("start")
        wait_for(self.port)

    def command(self, verb):
        subprocess.run(["/usr/sbin/postfix", "-c", self.folder / "conf", verb], check=True, stderr=subprocess.DEVNULL)

    def settle(self):
        for _ in range(120):
            time.sleep(0.5)
            listed = subprocess.run(["/usr/sbin/postqueue", "-c", self.folder / "conf", "-j"], capture_output=True)
            if not listed.stdout:
                return

    def stop(self):
        self.command("stop")


class Postern:
    """Postern, release build, everything durable. `api` is the Messages API: its own, or an unreachable one.

    Senders are checked only with a name server, `dns`. `built` is a program to take instead of a build, and
    `binary` one for this server alone, which `label` tells apart."""

    built = None

    def __init__(self, folder, embedded, wrap=(), dns=None, binary=None, label=""):
        self.name = ("postern+delivery" if embedded else "postern") + label
        self.delivers = embedded
        self.accepted = 0
        self.folder = pathlib.Path(folder)
        self.port, self.http, lmtp = free_port(), free_port(), free_port()
        base_url = f"http://127.0.0.1:{self.http}/api/v1/messages" if embedded else "http://127.0.0.1:1/none"
        (self.folder / "postern.toml").write_text(CONFIG.format(
            data=self.folder / "data", port=self.port, http=self.http, lmtp=lmtp,
            domain=DOMAIN, secret=SECRET, base_url=base_url, embedded=str(embedded).lower(),
            checks=str(bool(dns)).lower(), dns=f'"{dns}"' if dns else ""))
        self.config = self.folder / "postern.toml"
        self.binary = binary or self.built or build(ROOT, ROOT / "target", "--bin", "postern") / "postern"
        self.wrap = list(wrap)
        self.start()
        self.recipients = [self.mint(self.thread(n)) for n in range(50)]

    def start(self):
        self.log = open(self.folder / "log", "ab")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*self.wrap, self.binary, "serve", "--config", self.config], stdout=self.log, stderr=self.log)
        wait_for(self.port, 120)
        self.opened = time.monotonic() - began

    def thread(self, n):
        """The id of a thread. The embedded API accepts messages only for threads that it made."""
        if not self.delivers:
            return f"00000000-0000-4000-8000-{n:012x}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/api/v1/messages/threads",
            json.dumps({"sourceType": "email", "identityEmail": f"bench@{DOMAIN}"}).encode(),
            {"Authorization": f"Bearer {SECRET}", "Idempotency-Key": f"bench-{n}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]["id"]

    def mint(self, thread):
        out = subprocess.run([self.binary, "token", "mint", "--thread", thread, "--config", self.config],
                             check=True, capture_output=True, text=True).stdout
        return out.split()[-1]

    def settle(self):
        if not self.delivers:
            time.sleep(0.5)
            return
        end = time.monotonic() + 120
        while self.ledger("waiting"):
            if time.monotonic() > end:
                sys.exit(f"{self.ledger('waiting'):.0f} mails wait after two minutes")
            time.sleep(0.02)

    def ledger(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=30) as metrics:
            text = metrics.read().decode()
        return sum(float(value) for value in re.findall(rf"^postern_ledger_{name}(?:{{.*}})? (\S+)", text, re.M))

    def check(self, accepted):
        """Ends the run unless every mail that was accepted so far has become a message."""
        fates = {name: self.ledger(name) for name in ("received", "delivered", "parked", "dropped", "waiting")}
        if fates["delivered"] != accepted or fates["received"] != accepted:
            sys.exit(f"{accepted} mails were accepted, but of them: {fates}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


CONFIG = """
[server]
hostname = "mx.bench.test"
data_dir = "{data}"
log = "warn"

[smtp]
listen = ["127.0.0.1:{port}"]

[lmtp]
listen = ["127.0.0.1:{lmtp}"]

[session]
connections_max = 12000

[http]
listen = ["127.0.0.1:{http}"]

[auth]
enabled = {checks}

[auth.dns]
servers = [{dns}]

[embedded_api]
enabled = {embedded}
key = "{secret}"

[store]
waiting_max = 5000000

[[route]]
name = "bench"
domains = ["{domain}"]
secrets = [{{ id = 0, secret = "{secret}" }}]

[route.api]
base_url = "{base_url}"
key = "{secret}"
"""


def load(smtpload, server, *, sessions, seconds, extra=()):
    arguments = [smtpload, f"127.0.0.1:{server.port}", "--sessions", str(sessions), "--seconds", str(seconds),
                 "--size", "4096", *extra]
    for recipient in server.recipients:
        arguments += ["--to", recipient]
    out = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds + 60)
    rate = re.search(r"accepted=(\d+) .*per_second=(\d+)", out.stdout)
    if out.returncode or not rate:
        sys.exit(f"smtpload: {out.stdout} {out.stderr}")
    return int(rate.group(1)), float(rate.group(2)), re.search(r"failed=.*", out.stdout).group(0)


def rates(args, smtpload, folder):
    def place(name):
        path = pathlib.Path(folder) / name
        path.mkdir()
        return path

    servers = [Postfix(place("postfix")), Sink(place("sink")), Postern(place("postern"), False),
               Postern(place("delivering"), True)]
    if args.before:
        servers += [Postern(place("before"), False, binary=args.before, label=" before"),
                    Postern(place("delivering before"), True, binary=args.before, label=" before")]
    forms = {
        "20 sessions": dict(sessions=20),
        "20 sessions, pipelined": dict(sessions=20, extra=("--pipeline",)),
        "1 session": dict(sessions=1),
    }
    try:
        for form, options in forms.items():
            results = {server.name: [] for server in servers}
            lines = {}
            for _ in range(args.rounds):
                for server in servers:
                    began = time.monotonic()
                    accepted, rate, line = load(smtpload, server, seconds=args.seconds, **options)
                    # Pending work of one server must not slow down the next.
                    server.settle()
                    if getattr(server, "delivers", False):
                        rate = accepted / (time.monotonic() - began)
                        server.accepted += accepted
                        server.check(server.accepted)
                    results[server.name].append(rate)
                    lines[server.name] = line
            print(f"\n== {form}, 4 KiB, {args.rounds} rounds of {args.seconds} s each")
            medians = {name: statistics.median(values) for name, values in results.items()}
            for name, values in results.items():
                ordered = " ".join(f"{value:.0f}" for value in values)
                print(f"{name:23} median {medians[name]:8.0f} mails/s   ({ordered})   last: {lines[name]}")
            for name in ("postern", "postern+delivery"):
                print(f"{name} / postfix = {medians[name] / medians['postfix']:.2f}"
                      f"   {name} / sink = {medians[name] / medians['sink']:.2f}")
                if args.before:
                    print(f"{name} / before = {medians[name] / medians[name + ' before']:.2f}")
    finally:
        for server in servers:
            server.stop()


def idle(args, tool, folder):
    server = Postern(folder, False)
    try:
        print("\n== memory of idle connections (proportional set size)")
        for count in (1000, 10000):
            out = subprocess.run([tool, f"127.0.0.1:{server.port}", str(count), "1", str(server.process.pid)],
                                 capture_output=True, text=True, timeout=300)
            print(out.stdout.strip() or out.stderr)
            time.sleep(2)
    finally:
        server.stop()


def trace(args, smtpload, folder):
    """Shows the system calls around each 250: nothing is acknowledged before fdatasync has returned."""
    log = pathlib.Path(folder) / "strace"
    server = Postern(folder, False, wrap=["strace", "-f", "-tt", "-e", "trace=fdatasync,sendto,write,writev", "-s", "60", "-o", log])
    try:
        load(smtpload, server, sessions=20, seconds=2)
    finally:
        # The signal must go to Postern, not to strace.
        child = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(child[0]), signal.SIGTERM)
        server.process.wait(60)
    syncs = kept = 0
    for line in log.read_text(errors="replace").splitlines():
        syncs += bool(re.search(r"fdatasync\(\d+\) += 0|fdatasync resumed>\) += 0", line))
        kept += line.count("250 2.0.0 ")
    print(f"\n== strace: {kept} mails answered 250, {syncs} fdatasync: {kept / max(syncs, 1):.1f} mails a sync")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--shared", type=pathlib.Path, default=ROOT.parent / "shared")
    parser.add_argument("--binary", type=pathlib.Path, help="a program to measure instead of a release build")
    parser.add_argument("--before", type=pathlib.Path, help="an earlier build that takes turns with it")
    parser.add_argument("--only", choices=["rates", "idle", "trace"])
    args = parser.parse_args()
    Postern.built = args.binary
    tools = build(args.shared / "tools/smtpload", ROOT / "target/smtpload")
    with tempfile.TemporaryDirectory(prefix="postern-bench-") as top:
        # Postfix' own user needs access.
        os.chmod(top, 0o755)
        for name, part, tool in (("rates", rates, "smtpload"), ("idle", idle, "idle"), ("trace", trace, "smtpload")):
            if args.only in (None, name):
                folder = pathlib.Path(top) / name
                folder.mkdir()
                part(args, tools / tool, folder)


if __name__ == "__main__":
    main()
