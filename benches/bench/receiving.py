"""The measurements of incoming mail. Each is a function of the run, and stops its servers."""

import contextlib
import pathlib

from .measure import Failure, Load, Peak, median, new_folder, quantile, rates_line, remove, send, user_seconds, wait_until
from .servers import SECRET, Postern, Postfix, Product, Sink


class Stage(contextlib.ExitStack):
    """A folder for the servers of one measurement. At its end they stop and it is removed."""

    def __init__(self, run, name):
        super().__init__()
        self.run, self.folder = run, new_folder(run.top, name)
        self.callback(remove, self.folder)

    def up(self, server):
        self.callback(server.stop)
        return server

    def postern(self, api=None, **options):
        folder = new_folder(self.folder, f"postern-{len(list(self.folder.iterdir()))}")
        return self.up(Postern(folder, api, **options))

    def postfix(self, **options):
        return self.up(Postfix(new_folder(self.folder, "postfix"), **options))

    def sink(self):
        return self.up(Sink(self.folder))

    def product(self, **options):
        return self.up(Product(**options))

    def posterns(self, api=None, label=""):
        """One, and with --before the earlier build as well."""
        found = [self.postern(api, label=label)]
        if self.run.before:
            found.append(self.postern(api, label=f"{label} before", binary=self.run.before))
        return found


def turns(run, servers, options):
    """Lets the servers take turns in each round: by server, the rate of each round and the sender's results."""
    rates, results = {server.name: [] for server in servers}, {server.name: [] for server in servers}
    for _ in range(run.rounds):
        for server in servers:
            tells = isinstance(server, Postern) and server.delivers
            rate, result = (told if tells else accepted)(run, server, options)
            rates[server.name].append(rate)
            results[server.name].append(result)
    for name, values in rates.items():
        rates_line(name, values)
    return {name: median(values) for name, values in rates.items()}, results


def accepted(run, server, options):
    """The rate at which mails are accepted. Pending work of a server does not slow down the next one."""
    result = send("smtp", server.port, server.recipients, **{"seconds": run.seconds, **options})
    server.settle()
    if isinstance(server, Postern):
        server.accepted += result["accepted"]
        server.check()
    return result["per_second"], result


def told(run, server, options):
    """The rate from the first mail until nothing waits, and the user CPU of the server for each mail."""
    before = user_seconds(server.pid)
    load = Load("smtp", server.port, server.recipients, **{"seconds": run.seconds, **options})
    result = load.result()
    tail = wait_until(lambda: not server.ledger("waiting"), 300, f"{server.name} has delivered all mails")
    server.accepted += result["accepted"]
    server.check()
    result["user_us"] = (user_seconds(server.pid) - before) / result["accepted"] * 1e6
    return result["accepted"] / (tail - load.began), result


def before(medians, name="postern"):
    """The ratio to the earlier build, if there is one."""
    if f"{name} before" in medians:
        print(f"{name} / before = {medians[name] / medians[name + ' before']:.2f}")


def whole(product, accepted):
    """Fails unless the product has each mail as one message, with one body under one key."""
    counts = product.counts()
    if counts["messages"] != accepted or counts["changed"]:
        raise Failure(f"{accepted} mails were accepted, but the product counts {counts}")


def accept(run, table):
    """20 sessions, 4 KiB, the API down, beside Postfix and the sink."""
    with Stage(run, "accept") as stage:
        servers = [stage.postfix(), stage.sink(), *stage.posterns()]
        medians, _ = turns(run, servers, {"sessions": 20})
        before(medians)
        table.ratio("accept, 20 sessions / Postfix", medians["postern"] / medians["postfix"], ">= 12")
        table.ratio("accept, 20 sessions / sink", medians["postern"] / medians["sink"], ">= 0.6")


def pipelined(run, _table):
    """The same with pipelined commands; it has no goal of its own."""
    with Stage(run, "pipelined") as stage:
        servers = [stage.postfix(), stage.sink(), *stage.posterns()]
        medians, _ = turns(run, servers, {"sessions": 20, "pipeline": True})
        before(medians)
        for other in ("postfix", "sink"):
            print(f"ratio accept, pipelined / {other}: {medians['postern'] / medians[other]:.2f} (no goal)")


def steady(run, table):
    """One long run with the API down: its last third beside its first."""
    with Stage(run, "steady") as stage:
        server = stage.postern()
        _, result = accepted(run, server, {"sessions": 20, "seconds": run.long})
        seconds = (result["each_second"] + [0] * run.long)[:run.long]
        print("accepted in each second:", *seconds)
        third = run.long // 3
        ratio = sum(seconds[-third:]) / sum(seconds[:third])
        table.ratio(f"accept, last third / first third of {run.long} s", ratio, ">= 0.95")


def single(run, table):
    """One session, 4 KiB, the API down."""
    with Stage(run, "single") as stage:
        medians, results = turns(run, [stage.postfix(), *stage.posterns()], {"sessions": 1})
        before(medians)
        for name, rounds in results.items():
            p50, p99 = (median(r[share] for r in rounds) for share in ("p50_us", "p99_us"))
            print(f"{name}: p50 {p50:.0f} µs, p99 {p99:.0f} µs")
        table.ratio("accept, 1 session / Postfix", medians["postern"] / medians["postfix"], ">= 3")
        spread = median(r["p99_us"] / r["p50_us"] for r in results["postern"])
        table.ratio("accept, 1 session, p99 / p50", spread, "<= 4")


def told_rows(run, table):
    """20 sessions, 4 KiB, accepted, understood and posted: to the embedded API, and to a product."""
    with Stage(run, "told") as stage:
        postfix, product = stage.postfix(), stage.product()
        own = stage.postern(product.url, label=" product")
        servers = [postfix, own, *stage.posterns("embedded", " embedded")]
        medians, results = turns(run, servers, {"sessions": 20})
        before(medians, "postern embedded")
        whole(product, own.accepted)
        for api in ("embedded", "product"):
            ratio = medians[f"postern {api}"] / medians["postfix"]
            table.ratio(f"told ({api} API), 20 sessions / Postfix's accept rate", ratio, ">= 4")
        for api in ("embedded", "product"):
            used = median(r["user_us"] for r in results[f"postern {api}"])
            table.add(f"user CPU of a told mail ({api} API)", used, "<= 300", " µs")


def latency(run, table):
    """The time from the end of a mail to the arrival of its message at the product, alone and under load."""
    seconds = max(run.seconds, 10)
    for form, rate in (("", 0), (", 10,000 mails/min beside it", 167)):
        with Stage(run, f"latency-{rate}") as stage:
            arrivals, sent = stage.folder / "arrivals", stage.folder / "sent"
            product = stage.product(times=arrivals)
            server = stage.postern(product.url)
            server.accepted += send("smtp", server.port, server.recipients, count=200)["accepted"]
            options = {"sessions": 10, "seconds": seconds}
            loads = [Load("smtp", server.port, server.recipients[:25], rate=100, times=sent, **options)]
            if rate:
                loads.append(Load("smtp", server.port, server.recipients[25:], rate=rate, **options))
            server.accepted += sum(load.result()["accepted"] for load in loads)
            server.settle()
            server.check()
            whole(product, server.accepted)
            waits = joined(sent, arrivals)
        print(f"100 mails/s{form}: {len(waits)} mails, longest {max(waits):.1f} ms")
        table.add(f"mail to API call, 100 mails/s{form}, median", median(waits), "<= 1.4", " ms")
        table.add(f"mail to API call, 100 mails/s{form}, p99", quantile(waits, 0.99), "<= 3", " ms")


def joined(sent, arrivals):
    """The milliseconds between the two files' times for each sent mail."""
    def read(path):
        lines = (line.split() for line in pathlib.Path(path).read_text().splitlines())
        return {fields[1].strip("<>"): int(fields[0]) for fields in lines}

    came = read(arrivals)
    return [(came[mail] - at) / 1000 for mail, at in read(sent).items()]


def large(run, table):
    """20 sessions, 64 KiB, the API down."""
    with Stage(run, "large") as stage:
        medians, _ = turns(run, [stage.postfix(), *stage.posterns()], {"sessions": 20, "size": 64 << 10})
        before(medians)
        table.ratio("accept, 64 KiB, 20 sessions / Postfix", medians["postern"] / medians["postfix"], ">= 5")


def starttls(run, table):
    """A new connection with STARTTLS for each mail, 20 at a time, the API down."""
    with Stage(run, "starttls") as stage:
        options = {"sessions": 20, "fresh": True, "starttls": True}
        medians, _ = turns(run, [stage.postfix(tls=True), *stage.posterns()], options)
        before(medians)
        table.ratio("accept, STARTTLS, a connection a mail / Postfix", medians["postern"] / medians["postfix"], ">= 5")


def webhook(run, table):
    """Signed POSTs of the generic webhook beside SMTP, on one server, the API down."""
    with Stage(run, "webhook") as stage:
        server, doors = stage.postern(), {"smtp": [], "webhook": []}
        for _ in range(run.rounds):
            for door, kind, port, key in (("smtp", "smtp", server.port, ""), ("webhook", "hook", server.http, SECRET)):
                result = send(kind, port, server.recipients, sessions=20, seconds=run.seconds, key=key)
                server.accepted += result["accepted"]
                server.settle()
                server.check()
                doors[door].append(result["per_second"])
        for door, values in doors.items():
            rates_line(door, values)
        table.ratio("webhook POSTs accepted / SMTP", median(doors["webhook"]) / median(doors["smtp"]), ">= 0.5")


def backlog(run, table):
    """Many mails while the API is down, then their delivery beside that of fresh mails."""
    with Stage(run, "backlog") as stage:
        product = Product()
        try:
            server = stage.postern(product.url)
            fresh = [told(run, server, {"sessions": 20})[0]]
            whole(product, server.accepted)
        finally:
            product.stop()
        with Peak(server.pid) as peak:
            result = send("smtp", server.port, server.recipients, sessions=20, count=run.backlog)
            print(f"{run.backlog} mails accepted at {result['per_second']:.0f} a second; resident {peak.bytes >> 20} MiB")
            waiting = server.ledger("waiting")
            if waiting != run.backlog:
                raise Failure(f"{run.backlog} mails were accepted, but {waiting:.0f} wait")
            product = stage.product(port=product.port)
            marks = {}

            def drained():
                left = server.ledger("waiting")
                for share in (0.95, 0.05):
                    if left <= run.backlog * share and share not in marks:
                        marks[share] = (left, wait_until(lambda: True, 1, ""))
                return not left

            wait_until(drained, 60 + run.backlog / 50, "the backlog is delivered")
        server.accepted += run.backlog
        server.check()
        whole(product, run.backlog)
        (first, began), (last, ended) = marks[0.95], marks[0.05]
        rate = (first - last) / (ended - began)
        fresh.append(told(run, server, {"sessions": 20})[0])
        print(f"{first - last:.0f} of them delivered at {rate:.0f} a second; fresh mails before and after: "
              f"{fresh[0]:.0f}, {fresh[1]:.0f}")
        table.add(f"resident memory, backlog of {run.backlog} mails", peak.bytes / 2**20, "<= 300", " MiB")
        table.ratio("backlog's drain rate / fresh told rate", rate / median(fresh), ">= 0.9")


ROWS = {"accept": accept, "pipelined": pipelined, "steady": steady, "single": single, "told": told_rows,
        "latency": latency, "large": large, "starttls": starttls, "webhook": webhook, "backlog": backlog}
