#!/usr/bin/env python3
"""Measures the cost of sender authentication: Postern with `auth` enabled and disabled, in one run.

Usage: target/venv/bin/python benches/auth.py [--rounds 5] [--seconds 4] [--rate 500] [--sessions 20]

Needs dkimpy (tests/run.sh installs it) and openssl. Every mail has 4 KiB and one valid RSA-2048
signature; the name server is part of the script, on loopback, and Postern's cache is warm during the
measurement. The two servers take turns within each round, because the machine is shared and noisy. The output
is the medians of accepted mails a second, and of the time from the end of DATA to the response at a fixed rate.
The client is Python: its own cost is part of both rates, so their ratio is closer to 1 than without it.
"""

import argparse
import multiprocessing
import pathlib
import queue
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

import dkim

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from bench import servers  # noqa: E402

SENDER = "ann@client.bench.test"
HOST = "client.bench.test"
TXT = 16


def signed_mail(folder):
    """A mail of 4 KiB with one signature, and the record of its key."""
    pem = subprocess.run(["openssl", "genrsa", "-traditional", "2048"], capture_output=True, check=True).stdout
    public = subprocess.run(["openssl", "rsa", "-pubout"], input=pem, capture_output=True, check=True).stdout
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    words = b"The quick brown fox jumps over the lazy dog and then some more words.\r\n"
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    head = f"From: <{SENDER}>\r\nTo: <general@{servers.DOMAIN}>\r\nSubject: load\r\nDate: {date}\r\n\r\n"
    mail = head.encode() + words * ((4096 - len(head) - 500) // len(words))
    fields = [b"from", b"to", b"subject", b"date"]
    return dkim.sign(mail, b"s1", HOST.encode(), pem, include_headers=fields) + mail, record


def serve_dns(connection, records):
    """Answers TXT queries over UDP: known names with their text, all others with NXDOMAIN."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    connection.send(server.getsockname()[1])
    while True:
        query, peer = server.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
            at += 1 + query[at]
        question = query[12:at + 5]
        text = records.get(".".join(labels)) if struct.unpack("!H", query[at + 1:at + 3])[0] == TXT else None
        known = ".".join(labels) in records
        answer = b""
        if text:
            strings = b"".join(bytes([len(text[n:n + 255])]) + text[n:n + 255] for n in range(0, len(text), 255))
            answer = struct.pack("!HHHIH", 0xC00C, TXT, 1, 3600, len(strings)) + strings
        flags = 0x8400 | (0 if known else 3)
        server.sendto(query[:2] + struct.pack("!HHHHH", flags, 1, bool(answer), 0, 0) + question + answer, peer)


class Postern(servers.Postern):
    """A Postern with the checks enabled or disabled; nothing is delivered."""

    def __init__(self, folder, dns):
        super().__init__(folder, dns=dns)
        self.name = "auth on" if dns else "auth off"


def session(port, recipient, mail, end, due, latencies):
    """One session: sends a mail after the response to the last, or when one is due."""
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = peer.makefile("rb")

    def expect(code):
        line = lines.readline()
        while line[3:4] == b"-":
            line = lines.readline()
        if line[:3] != code:
            sys.exit(f"heard {line!r}")

    expect(b"220")
    peer.sendall(f"EHLO {HOST}\r\n".encode())
    expect(b"250")
    opening = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
    while time.monotonic() < end:
        if due is not None:
            try:
                due.get(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                break
        peer.sendall(opening)
        for code in (b"250", b"250", b"354"):
            expect(code)
        began = time.perf_counter()
        peer.sendall(mail)
        expect(b"250")
        latencies.append(time.perf_counter() - began)
    peer.close()


def client(port, recipients, mail, seconds, rate, results):
    """Several sessions in one process; together `rate` mails a second, 0 for no limit."""
    end = time.monotonic() + seconds
    due = queue.SimpleQueue() if rate else None
    latencies = []
    threads = [threading.Thread(target=session, args=(port, to, mail, end, due, latencies)) for to in recipients]
    for thread in threads:
        thread.start()
    began, sent = time.monotonic(), 0
    while rate and time.monotonic() < end:
        while sent < (time.monotonic() - began) * rate:
            due.put(sent)
            sent += 1
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    results.put(latencies)


def load(server, mail, args, seconds, rate):
    """Latencies of all mails accepted, by two processes."""
    results = multiprocessing.Queue()
    recipients = [server.recipients[n % len(server.recipients)] for n in range(args.sessions)]
    halves = [part for part in (recipients[::2], recipients[1::2]) if part]
    clients = [multiprocessing.Process(target=client, args=(
        server.port, part, mail, seconds, rate / len(halves), results)) for part in halves]
    for process in clients:
        process.start()
    latencies = [latency for _ in clients for latency in results.get(timeout=seconds + 60)]
    for process in clients:
        process.join()
    return sorted(latencies)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--binary", type=pathlib.Path, help="a program to measure instead of a release build")
    args = parser.parse_args()
    servers.Postern.built = args.binary
    with tempfile.TemporaryDirectory(prefix="postern-bench-") as top:
        mail, record = signed_mail(top)
        ours, theirs = multiprocessing.Pipe()
        records = {
            f"s1._domainkey.{HOST}": record,
            f"_dmarc.{HOST}": b"v=DMARC1; p=reject",
            HOST: b"v=spf1 ip4:127.0.0.1 -all",
        }
        dns = multiprocessing.Process(target=serve_dns, args=(theirs, records), daemon=True)
        dns.start()
        port = ours.recv()
        peers = []
        try:
            for name, address in (("off", None), ("on", f"127.0.0.1:{port}")):
                folder = pathlib.Path(top) / name
                folder.mkdir()
                peers.append(Postern(folder, address))
            whole = mail.replace(b"\r\n.", b"\r\n..") + b".\r\n"
            for form, rate in (("as many as go", 0), (f"{args.rate} mails/s", args.rate)):
                rates = {server.name: [] for server in peers}
                waits = {server.name: [] for server in peers}
                for server in peers:
                    load(server, whole, args, 1, 50)
                for _ in range(args.rounds):
                    for server in peers:
                        latencies = load(server, whole, args, args.seconds, rate)
                        rates[server.name].append(len(latencies) / args.seconds)
                        waits[server.name].append((latencies[len(latencies) // 2],
                                                   latencies[int(len(latencies) * 0.99)]))
                        time.sleep(0.5)
                print(f"\n== {form}, {args.sessions} sessions, {len(mail)} octets, {args.rounds} rounds of {args.seconds} s")
                for name, values in rates.items():
                    middle, late = (statistics.median(wait[n] for wait in waits[name]) * 1e3 for n in (0, 1))
                    print(f"{name:9} {statistics.median(values):8.0f} mails/s   end of DATA to its answer:"
                          f" median {middle:.2f} ms, 99th percentile {late:.2f} ms")
                print(f"on / off = {statistics.median(rates['auth on']) / statistics.median(rates['auth off']):.2f}")
        finally:
            for server in peers:
                server.stop()
            dns.terminate()


if __name__ == "__main__":
    main()
