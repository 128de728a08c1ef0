"""Callers without a key fill the memory for request bodies.

Bodies with a wrong signature are sent without their last octets, until the memory of POST /gateway/outbound is
used up. The product's own call with the right key must be accepted all the time."""

import json
import socket
import time

from kit import DOMAIN, KEY, Api, Postern, check, signed

ROOM = 128 * 1024 * 1024
BODY_MAX = 31457080


def hold(port, path, length, source):
    talk = socket.create_connection(("127.0.0.1", port), 60, source_address=(source, 0))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Webhook-Signature: {'0' * 64}\r\n"
    head += f"X-Webhook-Timestamp: {int(time.time() * 1000)}\r\nContent-Length: {length + 100}\r\n\r\n"
    try:
        talk.sendall(head.encode() + b" " * length)
    except OSError:
        pass  # It is refused, which is as good.
    return talk


def main():
    secret = "a webhook secret made for attacks, worth nothing"
    more = {"webhook": f'secret = "{secret}"\n', "server": 'inbound = ["smtp", "lmtp", "webhook"]'}
    with Api() as api, Postern(api.url, more) as postern:
        port = postern.ports["http"]
        direct = {"body": "It left us today.", "recipientEmail": "ann@example.com", "subject": "x", "threadId": "t-1"}
        raw = {"envelope": {"to": [f"general@{DOMAIN}"], "from": "a@example.org"}, "raw": "RnJvbTogYUB4LnRlc3QNCg0KaMOp"}
        for path, own in (
            ("/gateway/outbound", lambda n: ({**direct, "threadId": f"t-{n}"}, {"Authorization": f"Bearer {KEY}"})),
            ("/gateway/inbound/generic", lambda _: (raw, None)),
        ):
            lengths = [BODY_MAX] * 4 + [ROOM - 4 * BODY_MAX - 40]
            held = [hold(port, path, length, "127.0.0.2") for length in lengths]
            for number in range(20):
                # The bodies are sent; sometimes the server has read more of them.
                time.sleep(0.25)
                body, headers = own(number)
                body = json.dumps(body).encode()
                status, _, answer = postern.call("POST", path, body, headers or signed(secret, body))
                check(status in (200, 202), f"{path}: a proven caller is told {status} {answer[:200]!r}")
            for talk in held:
                talk.close()
            print(f"{path}: 20 of 20 proven calls were taken")


if __name__ == "__main__":
    main()
