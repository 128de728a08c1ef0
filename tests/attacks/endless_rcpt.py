"""Endless recipients: above the limit of a mail RCPT is refused, and finally the session ends."""

from kit import DOMAIN, Api, Postern, Smtp, check

RCPT_MAX = 100
TRIES = 5_000


def main():
    with Api() as api, Postern(api.url) as postern:
        client = Smtp(postern.ports["smtp"])
        check(client.say("MAIL FROM:<a@peer.test>").startswith("250"), "MAIL is refused")
        taken = refused = 0
        last = ""
        for _ in range(TRIES):
            answer = client.say(f"RCPT TO:<general@{DOMAIN}>")
            if answer.startswith("250"):
                taken += 1
            elif answer.startswith("452"):
                refused += 1
            else:
                last = answer
                break
        print(f"{taken} recipients taken, {refused} refused, then {last!r}")
        check(taken == RCPT_MAX, f"{taken} recipients taken")
        check(last.startswith("421"), f"never hung up on within {TRIES} recipients")
        check(refused <= 100, f"{refused} refusals before the end")


if __name__ == "__main__":
    main()
