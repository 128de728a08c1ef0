"""A Messages API that loses its first answers and refuses another body under the same Idempotency-Key.

Each kind of call is lost once, for mails that begin a thread and mails that continue one. Every repeated call must
have the same octets, and every mail must be posted."""

from kit import DOMAIN, Api, Postern, Smtp, check, eventually, letter

MAILS = 8


def main():
    first_bodies = {}

    def plan(method, path, key, body, times):
        if first_bodies.setdefault(key, body) != body:
            return 422
        return "hang up" if times == 0 else None

    with Api(plan) as api, Postern(api.url) as postern:
        client = Smtp(postern.ports["smtp"])
        for number in range(MAILS):
            to = f"general@{DOMAIN}" if number % 2 else postern.mint(f"order-{number}")
            answer = client.mail("ann@peer.test", to, letter(number))
            check(answer.startswith("250"), answer)
        eventually("nothing waits", lambda: postern.metric("postern_ledger_waiting") == 0)
        changed = [key for key, bodies in api.bodies_by_key().items() if len(bodies) > 1]
        check(not changed, f"bodies that change under their key: {changed}")
        check(postern.metric("postern_ledger_parked") == 0, "a mail that was told is parked")
        check(len(api.messages) == MAILS, f"{len(api.messages)} of {MAILS} messages")
        repeated = len(api.calls) - len({call[2] for call in api.calls})
        print(f"{len(api.calls)} calls, {repeated} of them repeats with the same octets; {MAILS} messages")


if __name__ == "__main__":
    main()
