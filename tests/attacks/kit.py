"""The shared parts of the attacks: a separate Postern, the servers it uses, and plain clients.

Everything is on loopback and bounded: one folder, one process of Postern, which is ended by its id. Loopback is not
exempt here (`[networks] exempt = []`), so 127.0.0.2 is another network than 127.0.0.1.
"""

import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DOMAIN = "inbox.test"
KEY = "a key made for attacks, worth nothing elsewhere"
SECRET = "a secret made for attacks, worth nothing elsewhere"
# Longer than any step, unless something hangs.
PATIENCE = 120


def binary():
    return os.environ.get("POSTERN", ROOT / "target/debug/postern")


def check(holds, what):
    """Ends the attack as a failure unless `holds`."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")


def eventually(what, done, patience=PATIENCE):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(f"FAILED: this never happened: {what}")


class Postern:
    """A running Postern. It chooses its ports; `more` is TOML by table, as in {"session": "rcpt_max = 5"}."""

    def __init__(self, api, more=None, exempt="[]"):
        self.folder = tempfile.TemporaryDirectory(prefix="postern-attack-")
        self.path = pathlib.Path(self.folder.name)
        tables = {
            "server": f'hostname = "mx.test"\ndata_dir = "{self.path}/data"\n',
            "smtp": 'listen = ["127.0.0.1:0"]\n',
            "lmtp": 'listen = ["127.0.0.1:0"]\n',
            "http": 'listen = ["127.0.0.1:0"]\n',
            "networks": f"exempt = {exempt}\n",
            "auth": "enabled = false\n",
            "delivery": 'retry_wait_first = "100ms"\nretry_wait_max = "1s"\n',
            "store": 'free_bytes_min = "1MiB"\n',
            "outbound": 'enabled = true\ncapture = true\nfrom = "support@product.test"\n',
        }
        for name, lines in (more or {}).items():
            tables[name] = tables.get(name, "") + lines + "\n"
        text = "".join(f"[{name}]\n{lines}\n" for name, lines in tables.items())
        text += (
            f'[[route]]\nname = "test"\ndomains = ["{DOMAIN}"]\nsecrets = [{{ id = 0, secret = "{SECRET}" }}]\n'
            f'[route.api]\nbase_url = "{api}"\nkey = "{KEY}"\n'
        )
        self.config = self.path / "postern.toml"
        self.config.write_text(text)
        self.config.chmod(0o600)
        self.process = None
        self.start()

    def start(self):
        self.log_path = self.path / "log"
        begun = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [binary(), "serve", "--config", self.config], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

        def ready():
            check(self.process.poll() is None, f"postern ended: {self.log()}")
            return " ready version=" in self.log()[begun:]

        eventually("postern is ready", ready)
        told = re.findall(r'listening address=\S+?:(\d+) protocol="(\w+)"', self.log()[begun:])
        self.ports = {protocol: int(port) for port, protocol in told}

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self, *arguments):
        return subprocess.run(
            [binary(), *arguments, "--config", self.config], capture_output=True, text=True, timeout=PATIENCE
        )

    def mint(self, thread):
        return self.command("token", "mint", "--thread", thread).stdout.split()[-1]

    def metrics(self):
        status, _, body = self.call("GET", "/metrics")
        check(status == 200, f"/metrics is {status}")
        found = {}
        for line in body.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                found[name] = float(value)
        return found

    def metric(self, name):
        """The value of a metric, or the sum over its labels."""
        return sum(value for key, value in self.metrics().items() if key.split("{")[0] == name)

    def call(self, method, path, body=b"", headers=None, source="127.0.0.1", timeout=PATIENCE):
        """One HTTP request from a loopback address: status, headers, body."""
        talk = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout, source_address=(source, 0))
        try:
            talk.request(method, path, body, headers or {})
            answer = talk.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            talk.close()

    def rss(self):
        """Octets of memory in use by the process."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise SystemExit("FAILED: postern does not stop") from None
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            log = self.log()
            for secret in (KEY, SECRET):
                check(secret not in log, "a secret is in the log")
        finally:
            self.folder.cleanup()


class Api:
    """A Messages API that honours idempotency keys, records every body, and responds by `plan`.

    `plan(method, path, key, body, times)` gives a status, None for what is usual, or "hang up" to do it and
    not answer. `times` counts the calls with this key before."""

    def __init__(self, plan=None):
        api = self
        self.plan = plan or (lambda *_: None)
        self.calls = []  # (method, path, key, body)
        self.times = {}  # calls by key
        self.answers = {}
        self.messages = []
        self.lock = threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                key = self.headers.get("idempotency-key", "")
                with api.lock:
                    times = api.times.get(key, 0)
                    api.times[key] = times + 1
                    api.calls.append((self.command, self.path, key, body))
                    said = api.plan(self.command, self.path, key, body, times)
                    if said in (None, "hang up"):
                        if key not in api.answers:
                            api.answers[key] = f"id-{len(api.answers) + 1}"
                            if self.path.endswith("/messages"):
                                api.messages.append(json.loads(body))
                        status, text = 200, json.dumps({"success": True, "data": {"id": api.answers[key]}})
                    else:
                        status, text = said, json.dumps({"success": False})
                if said == "hang up":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_PATCH = do_GET = answer

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api"

    def bodies_by_key(self):
        """All different bodies that came with a key."""
        found = {}
        with self.lock:
            for method, path, key, body in self.calls:
                found.setdefault((method, path, key), set()).add(body)
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Smtp:
    """A plain client: it sends lines and reads responses, without checks."""

    def __init__(self, port, source="127.0.0.1", hello="EHLO peer.test", timeout=PATIENCE):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout, source_address=(source, 0))
        self.file = self.socket.makefile("rb")
        self.greeting = self.answer()
        if hello and self.greeting.startswith("220"):
            self.say(hello)

    def send(self, octets):
        self.socket.sendall(octets)

    def answer(self):
        """The last line of one response, or "" if the peer disconnected."""
        while True:
            try:
                line = self.file.readline()
            except (ConnectionResetError, BrokenPipeError):
                return ""
            if line[3:4] != b"-":
                return line.decode(errors="replace").rstrip()

    def say(self, line):
        try:
            self.send(line.encode() + b"\r\n")
        except (ConnectionResetError, BrokenPipeError):
            return ""
        return self.answer()

    def mail(self, sender, recipient, text):
        """The response to the final dot, or the first refusal."""
        for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            answer = self.say(line)
            if answer[:1] not in ("2", "3"):
                return answer
        self.send(text.encode() + b"\r\n.\r\n")
        return self.answer()

    def close(self):
        self.file.close()
        self.socket.close()


def letter(number, words="Hello.", sender="ann@peer.test"):
    return (
        f"From: Ann <{sender}>\r\nTo: general@{DOMAIN}\r\nSubject: Question {number}\r\n"
        f"Message-ID: <{number}@peer.test>\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\n{words}"
    )


def fresh_client(postern, number, source):
    """Sends a whole mail by a new client; returns the response and the duration in seconds."""
    begun = time.monotonic()
    client = Smtp(postern.ports["smtp"], source)
    answer = client.greeting
    if answer.startswith("220"):
        answer = client.mail("ann@peer.test", f"general@{DOMAIN}", letter(f"fresh-{number}"))
    client.close()
    return answer, time.monotonic() - begun


def signed(secret, body, millis=None):
    """The header fields that sign a body by the generic scheme."""
    millis = str(millis or int(time.time() * 1000))
    mac = hmac.new(secret.encode(), millis.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-Webhook-Timestamp": millis, "X-Webhook-Signature": mac}
