"""Mixed load: every mail is posted once, the ledger adds up, and memory stays constant after the warm-up.

People's mails, machines' mails, duplicates, refused recipients, junk over HTTP, and a Messages API of which one call
in five fails. `--seconds 600` is the long form."""

import argparse
import random
import socket
import threading
import time

from kit import DOMAIN, Api, Postern, Smtp, check, eventually, letter

# The senders pause while so many mails wait, so that the backlog does not depend on the speed of the machine.
WAITING_MAX = 1000
# How much memory may grow from a quarter of the time to its end. The long form shows a leak of 1 KB a mail.
GROWTH_MAX = 24 * 1024 * 1024


def person(client, name, recipients):
    to = recipients[hash(name) % len(recipients)]
    return client.mail("ann@peer.test", to, letter(name, f"I wait for {name}."))


def machine(client, name, _):
    mail = letter(name, "I am away.").replace("Subject:", "Auto-Submitted: auto-replied\r\nSubject:", 1)
    return client.mail("", f"general@{DOMAIN}", mail)


def sender(postern, recipients, end, told, number):
    client, count = None, 0
    while time.monotonic() < end:
        try:
            client = client or Smtp(postern.ports["smtp"], f"127.0.0.{30 + number}")
            name = f"soak-{number}-{count}"
            kind = count % 8
            if kind == 7:
                answer = client.say("MAIL FROM:<a@peer.test>") and client.say(f"RCPT TO:<reply+{'a' * 40}@{DOMAIN}>")
                check(answer[:1] in ("4", "5", ""), f"a forged token is answered {answer!r}")
                client.say("RSET")
            elif kind == 6:
                machine(client, name, recipients)
            else:
                answer = person(client, name, recipients)
                if answer.startswith("250"):
                    told.add(f"<{name}@peer.test>")
                    if kind == 5:
                        person(client, name, recipients)
            count += 1
            if count % 50 == 0:
                client.say("QUIT")
                client.close()
                client = None
                while postern.metric("postern_ledger_waiting") > WAITING_MAX and time.monotonic() < end:
                    time.sleep(0.05)
        except OSError:
            client = None


def junk(postern, end):
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", postern.ports["http"]), 5, source_address=("127.0.0.99", 0)) as talk:
                talk.sendall(random.randbytes(200) if random.random() < 0.5 else
                             b"POST /gateway/events HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + b"x" * 20)
                talk.recv(4096)
        except OSError:
            pass
        time.sleep(0.02)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=40)
    seconds = arguments.parse_args().seconds
    chance = random.Random(1)

    def plan(_method, _path, _key, _body, times):
        fails = times < 4 and chance.random() < 0.2
        return chance.choice([500, 503, "hang up"]) if fails else None

    with Api(plan) as api, Postern(api.url, {"outbound": "", "delivery": ""}) as postern:
        recipients = [postern.mint(f"order-{number}") for number in range(40)] + [f"general@{DOMAIN}"]
        end = time.monotonic() + seconds
        told = set()
        work = [threading.Thread(target=sender, args=(postern, recipients, end, told, number), daemon=True) for number in range(4)]
        work.append(threading.Thread(target=junk, args=(postern, end), daemon=True))
        for thread in work:
            thread.start()
        samples = []
        while time.monotonic() < end:
            time.sleep(seconds / 20)
            samples.append(postern.rss())
        for thread in work:
            thread.join()
        eventually("nothing waits", lambda: postern.metric("postern_ledger_waiting") == 0)
        ids = [message["emailMessageId"] for message in api.messages]
        ids = [text if text.startswith("<") else f"<{text}>" for text in ids]
        check(len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} messages told twice")
        check(told <= set(ids), f"{len(told - set(ids))} of {len(told)} mails lost")
        ledger = {name: postern.metric(f"postern_ledger_{name}") for name in ("received", "waiting", "delivered", "parked", "dropped")}
        check(ledger["received"] == sum(ledger.values()) - ledger["received"], f"the ledger does not add up: {ledger}")
        check(ledger["parked"] == 0, f"mails are parked: {ledger}")
        warm, last = max(samples[: len(samples) // 4]), samples[-1]
        print(f"{seconds} s: {len(told)} mails told once; ledger {ledger}; memory {warm >> 20} MiB warm, {last >> 20} MiB at the end")
        check(last - warm < GROWTH_MAX, f"memory grew by {(last - warm) >> 20} MiB")
        check(postern.stop() == 0, "the stop was not a clean one")


if __name__ == "__main__":
    main()
