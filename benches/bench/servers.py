"""The servers that are measured, and those that they need. Measures nothing."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import time
import urllib.request

from .measure import ROOT, Failure, build, free_port, wait_for, wait_until

DOMAIN = "inbox.bench.test"
SECRET = "a secret made for benches only, worth nothing elsewhere"
THREADS = 50


class Process:
    """A server that is one process; it is killed at the end."""

    def run(self, arguments, out=None):
        self.process = subprocess.Popen(arguments, stdout=out)
        wait_for(self.port)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Sink(Process):
    """`mailin-embedded`, which stores nothing."""

    name = "sink"

    def __init__(self, _folder):
        self.port = free_port()
        self.recipients = [f"ann@{DOMAIN}"]
        self.run([build("sink") / "sink", f"127.0.0.1:{self.port}"])

    def settle(self):
        time.sleep(0.5)


class Product(Process):
    """A Messages API in a process of its own that answers at once. `times` is its file of arrivals."""

    def __init__(self, port=None, times=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.run([build("product") / "product", f"127.0.0.1:{self.port}", *([times] if times else [])])

    def counts(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=30) as answer:
            return json.load(answer)


class Relay(Process):
    """Postfix' `smtp-sink`: a relay that counts and discards."""

    def __init__(self, folder):
        self.port = free_port()
        self.file = pathlib.Path(folder) / "count"
        with open(self.file, "wb") as out:
            self.run(["/usr/sbin/smtp-sink", "-c", "-u", "nobody", f"127.0.0.1:{self.port}", "1000"], out)

    def count(self):
        with open(self.file, "rb") as file:
            file.seek(max(self.file.stat().st_size - 200, 0))
            counts = re.findall(rb"mesg=(\d+)\r", file.read())
        return int(counts[-1]) if counts else 0


class Postfix:
    """Postfix with its defaults for durability. Its queue manager discards the accepted mail, or hands it to
    `relay`. With `tls` it offers STARTTLS, with a certificate of the kind that Postern makes."""

    name = "postfix"

    def __init__(self, folder, relay=None, tls=False):
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
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "in_flow_delay": "0",
        }
        if relay:
            settings["relayhost"] = f"[127.0.0.1]:{relay.port}"
        else:
            settings.update(virtual_mailbox_domains=DOMAIN, virtual_transport="discard:")
        if tls:
            settings.update(self.certificate(), smtpd_tls_security_level="may")
        (self.folder / "conf/main.cf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        (self.folder / "conf/master.cf").write_text(f"127.0.0.1:{self.port} inet n - n - - smtpd\n{DAEMONS}")
        self.recipients = [f"ann@{DOMAIN}"]
        self.command("start")
        wait_for(self.port)

    def certificate(self):
        key, chain = self.folder / "key.pem", self.folder / "chain.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", chain, "-days", "30", "-subj", "/CN=mx.bench.test"],
                       check=True, capture_output=True)
        return {"smtpd_tls_key_file": key, "smtpd_tls_cert_file": chain}

    def command(self, verb):
        subprocess.run(["/usr/sbin/postfix", "-c", self.folder / "conf", verb], check=True, stderr=subprocess.DEVNULL)

    def settle(self):
        for _ in range(240):
            time.sleep(0.5)
            listed = subprocess.run(["/usr/sbin/postqueue", "-c", self.folder / "conf", "-j"], capture_output=True)
            if not listed.stdout:
                return
        raise Failure("Postfix' queue is not empty after two minutes")

    def stop(self):
        self.command("stop")


class Postern:
    """Postern, everything durable. `api` is the URL of a Messages API, "embedded" for its own, or None for one
    that is down. Senders are checked only with a name server, `dns`. `relay` opens the outbox. `built` is a
    program to take instead of a release build, and `binary` one for this server alone, which `label` tells
    apart."""

    built = None

    def __init__(self, folder, api=None, *, label="", binary=None, dns=None, relay=None, wrap=()):
        self.embedded = api == "embedded"
        self.name = f"postern{label}"
        self.delivers = bool(api)
        self.accepted = 0
        self.folder = pathlib.Path(folder)
        self.port, self.http, lmtp = free_port(), free_port(), free_port()
        base_url = f"http://127.0.0.1:{self.http}/api/v1/messages" if self.embedded else api or "http://127.0.0.1:1/none"
        config = CONFIG.format(
            data=self.folder / "data", port=self.port, http=self.http, lmtp=lmtp,
            domain=DOMAIN, secret=SECRET, base_url=base_url, embedded=str(self.embedded).lower(),
            checks=str(bool(dns)).lower(), dns=f'"{dns}"' if dns else "")
        if relay:
            key = self.folder / "dkim.pem"
            subprocess.run(["openssl", "genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key],
                           check=True, capture_output=True)
            key.chmod(0o600)
            config += OUTBOUND.format(port=relay.port, key=key, secret=SECRET, domain=DOMAIN)
        self.config = self.folder / "postern.toml"
        self.config.touch(0o600)
        self.config.write_text(config)
        self.binary = binary or self.built or build("postern", "--bin", "postern", folder=ROOT) / "postern"
        self.wrap = list(wrap)
        self.start()
        self.recipients = [self.mint(self.thread(n)) for n in range(THREADS)]

    def start(self):
        self.log = open(self.folder / "log", "ab")
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*self.wrap, self.binary, "serve", "--config", self.config], stdout=self.log, stderr=self.log)
        wait_for(self.port, 600)
        self.opened = time.monotonic() - began

    @property
    def pid(self):
        return self.process.pid

    def thread(self, n):
        """The id of a thread. The embedded API accepts messages only for threads that it made."""
        if not self.embedded:
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

    def settle(self, seconds=300):
        if self.delivers:
            wait_until(lambda: not self.ledger("waiting"), seconds, f"{self.name} has delivered all mails")
        else:
            time.sleep(0.5)

    def gauges(self, prefix):
        """The metrics with this prefix: their sums, and each state of those that have states."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=60) as metrics:
            text = metrics.read().decode()
        found = {}
        for name, labels, value in re.findall(rf"^{prefix}_(\w+?)(?:{{(.*)}})? (\S+)$", text, re.M):
            state = re.search(r'state="(\w+)"', labels)
            name = state.group(1) if state else name
            found[name] = found.get(name, 0) + float(value)
        return found

    def ledger(self, name):
        return self.gauges("postern_ledger").get(name, 0)

    def check(self):
        """Fails unless every mail that was accepted so far has become a message, or waits while the API is down."""
        fates = self.gauges("postern_ledger")
        state = "delivered" if self.delivers else "waiting"
        if fates["received"] != self.accepted or fates[state] != self.accepted or fates["parked"]:
            raise Failure(f"{self.name} accepted {self.accepted} mails, but of them: {fates}")

    def stop(self):
        """A stop that takes more than a minute, or that fails, ends the run."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"{self.name} does not stop") from None
        finally:
            self.log.close()
        if code:
            raise Failure(f"{self.name} ended with {code}: {(self.folder / 'log').read_text(errors='replace')[-400:]}")


DAEMONS = """cleanup unix n - n - 0 cleanup
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
smtp unix - - n - - smtp
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

CONFIG = """
[server]
hostname = "mx.bench.test"
data_dir = "{data}"
log = "warn"
inbound = ["smtp", "lmtp", "webhook"]

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

[delivery]
retry_wait_first = "1s"
retry_wait_max = "2s"

[webhook]
secret = "{secret}"
source_rate = 1000000
source_burst = 1000000
rate = 1000000
burst = 1000000

[[route]]
name = "bench"
domains = ["{domain}"]
secrets = [{{ id = 0, secret = "{secret}" }}]

[route.api]
base_url = "{base_url}"
key = "{secret}"
"""

# As many connections to the relay as Postfix opens to one destination, and no limit of the rate.
OUTBOUND = """
[outbound]
enabled = true
from = "support@{domain}"
host = "127.0.0.1"
port = {port}
tls = "none"
connections = 20
domain_connections = 20
rate = 100000
domain_rate = 100000

[outbound.api]
key = "{secret}"

[[outbound.dkim]]
selector = "bench"
key_file = "{key}"
"""
