"""A bare LF in a command: the text after it must not run as a separate command."""

from kit import DOMAIN, Api, Postern, Smtp, check


def main():
    with Api() as api, Postern(api.url) as postern:
        for port, hello in (("smtp", "EHLO peer.test"), ("lmtp", "LHLO peer.test")):
            for command in (b"NOOP x\nMAIL FROM:<a@p.test>\r\n", b"RSET\nMAIL FROM:<a@p.test>\r\n", b"VRFY a\n\nMAIL FROM:<a@p.test>\r\n"):
                client = Smtp(postern.ports[port], hello=hello)
                client.send(command)
                first = client.answer()
                check(first[:3] in ("500", "501", "521", "421", "554"), f"{command!r} is answered {first!r}")
                # If MAIL ran, this is its response, and a recipient is accepted.
                heard = [client.say(f"RCPT TO:<general@{DOMAIN}>"), client.say("NOOP")]
                check(not any(answer.startswith("250 2.1") for answer in heard), f"{command!r}: {[first, *heard]}")
                client.close()
        check(postern.metric("postern_ledger_received") == 0, "a mail was taken")
        print("6 of 6 commands with a bare LF changed nothing")


if __name__ == "__main__":
    main()
