"""All HTTP places are taken by silent connections.

512 connections of five addresses are opened, and reopened when they end. /healthz must respond all the time."""

import socket
import statistics
import time

from kit import KEY, Api, Postern, check


def silent(port, count):
    held = []
    for number in range(count):
        try:
            held.append(socket.create_connection(("127.0.0.1", port), 10, source_address=(f"127.0.0.{20 + number % 5}", 0)))
        except OSError:
            break
    return held


def main():
    with Api() as api, Postern(api.url) as postern:
        held = silent(postern.ports["http"], 640)
        times = []
        for _ in range(10):
            for path, headers in (("/healthz", {}), ("/gateway/jobs", {"Authorization": f"Bearer {KEY}"})):
                begun = time.monotonic()
                status, _, _ = postern.call("GET", path, headers=headers, source="127.0.0.9")
                times.append(time.monotonic() - begun)
                check(status == 200, f"{path} is {status}")
            held += silent(postern.ports["http"], 40)
        print(f"{len(held)} silent connections; answers: {statistics.median(times):.3f} s median, {max(times):.3f} s at most")
        check(statistics.median(times) < 1 and max(times) < 5, "an answer is waited for")
        for talk in held:
            talk.close()


if __name__ == "__main__":
    main()
