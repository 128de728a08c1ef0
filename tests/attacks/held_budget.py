"""One address holds the whole memory budget for mail with mails that never end.

16 connections of 127.0.0.1 send almost all of the budget and then a slow trickle. A new client of another address
must be able to send a whole mail all the time."""

import statistics

from kit import DOMAIN, Api, Postern, Smtp, check, fresh_client

BUDGET = 64 * 1024 * 1024
CONNECTIONS = 16


def held(postern):
    client = Smtp(postern.ports["smtp"])
    for line in ("MAIL FROM:<a@p.test>", f"RCPT TO:<general@{DOMAIN}>", "DATA"):
        if client.say(line)[:1] not in ("2", "3"):
            break
    else:
        line = b"x" * 998 + b"\r\n"
        try:
            client.send(b"From: a@p.test\r\n\r\n" + line * (BUDGET // CONNECTIONS // len(line)))
        except OSError:
            pass
    return client


def main():
    limits = {"session": 'bytes_in_flight_max = "64MiB"\nmail_bytes_max = "8MiB"'}
    with Api() as api, Postern(api.url, limits) as postern:
        attackers = [held(postern) for _ in range(CONNECTIONS)]
        times = []
        for round in range(20):
            for attacker in attackers:
                try:
                    attacker.send(b"y")
                except OSError:
                    pass
            answer, seconds = fresh_client(postern, round, f"127.0.0.{8 + round % 4}")
            check(answer.startswith("250"), f"a fresh client is told {answer!r}")
            times.append(seconds)
        print(f"fresh client: {statistics.median(times):.3f} s median, {max(times):.3f} s at most, {len(times)} mails")
        check(statistics.median(times) < 1 and max(times) < 5, "a fresh client is made to wait")


if __name__ == "__main__":
    main()
