#!/usr/bin/env python3
"""Simulates a power failure at every acknowledgement of a traced run, and checks what is left.

Usage: powercut.py TRACE FOLDER SCRATCH {lost,kept} -- CHECK COMMAND WITH {}

TRACE is the output of `strace -f -xx -s 100000000` for a Postern whose data folder was FOLDER, empty at the
start. The folder is rebuilt in SCRATCH as a disk would hold it if the power failed just when an
acknowledgement was passed to the kernel: only bytes that an fsync or fdatasync, begun after they were
written, had covered by then. Names (created, renamed, deleted files) that no fsync of their folder had
covered are undone (`lost`) or done (`kept`): a disk may do either. CHECK prints how many mails it finds;
fewer than were acknowledged is a loss, and the exit code says so.
"""

import os
import re
import shutil
import subprocess
import sys

# The response at the end of DATA, and the output of the example `powercut`.
ACKNOWLEDGEMENTS = re.compile(rb"250 2\.0\.0 |ACK ")
CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")


class File:
    def __init__(self):
        self.written = bytearray()
        self.durable = b""


class Disk:
    def __init__(self, folder):
        self.folder = folder
        self.names, self.durable_names = {}, {}
        self.open, self.place = {}, {}
        self.folders = {folder}
        self.acknowledged = 0
        self.cuts = []

    def inside(self, path):
        return path == self.folder or path.startswith(self.folder + "/")

    def call(self, name, arguments, result):
        strings = [unhex(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        if name == "openat":
            self.opened(strings[0].decode(), arguments, result)
        elif name in ("write", "pwrite64", "sendto", "writev", "sendmsg"):
            self.wrote(name, arguments, b"".join(strings), result)
        elif name in ("ftruncate", "fallocate"):
            numbers = [int(n) for n in re.findall(r"-?\d+", arguments)]
            if numbers[0] in self.open and isinstance(self.open[numbers[0]], File):
                written = self.open[numbers[0]].written
                if name == "ftruncate":
                    del written[numbers[1]:]
                length = numbers[1] if name == "ftruncate" else numbers[-2] + numbers[-1]
                written.extend(bytes(max(0, length - len(written))))
        elif name in ("fsync", "fdatasync"):
            self.synced(*self.snapshot(int(arguments)))
        elif name.startswith("rename"):
            self.renamed(strings[0].decode(), strings[1].decode())
        elif name.startswith("unlink"):
            self.names.pop(strings[0].decode(), None)
        elif name.startswith("mkdir"):
            if self.inside(strings[0].decode()):
                self.folders.add(strings[0].decode())
        elif name == "close":
            self.open.pop(int(arguments), None)

    def renamed(self, old, new):
        if old in self.names:
            self.names[new] = self.names.pop(old)
        elif old in self.folders:
            for path in [path for path in self.folders if path == old or path.startswith(old + "/")]:
                self.folders.remove(path)
                self.folders.add(new + path[len(old):])
            for names in (self.names, self.durable_names):
                for path in [path for path in names if path.startswith(old + "/")]:
                    names[new + path[len(old):]] = names.pop(path)

    def opened(self, path, arguments, result):
        self.open.pop(result, None)
        if not self.inside(path):
            return
        if path in self.folders or "O_DIRECTORY" in arguments:
            self.open[result] = path
            return
        file = self.names.setdefault(path, File())
        if "O_TRUNC" in arguments:
            file.written = bytearray()
        self.open[result], self.place[result] = file, 0

    def wrote(self, name, arguments, content, result):
        number = int(arguments.split(",")[0])
        file = self.open.get(number)
        if not isinstance(file, File):
            return
        content = content[:result]
        at = int(arguments.rsplit(",", 1)[1]) if name == "pwrite64" else self.place[number]
        if name != "pwrite64":
            self.place[number] += result
        file.written.extend(bytes(max(0, at - len(file.written))))
        file.written[at:at + len(content)] = content

    def acknowledge(self, text):
        """Counts the responses to a peer, from the begin of the call."""
        match = re.match(r"\d+ +(?:write|sendto|writev|sendmsg)\((\d+)", text)
        if match and int(match.group(1)) not in self.open:
            said = b"".join(unhex(part) for part in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', text))
            count = len(ACKNOWLEDGEMENTS.findall(said))
            self.acknowledged += count
            if count:
                contents = {path: file.durable for path, file in self.names.items()}
                lost = {path: file.durable for path, file in self.durable_names.items()}
                self.cuts.append((self.acknowledged, {"kept": contents, "lost": lost}))

    def snapshot(self, number):
        target = self.open.get(number)
        return target, bytes(target.written) if isinstance(target, File) else None

    def synced(self, target, content):
        if isinstance(target, File):
            target.durable = content
        elif target is not None:
            def elsewhere(names):
                return {path: file for path, file in names.items() if os.path.dirname(path) != target}

            here = {path: file for path, file in self.names.items() if os.path.dirname(path) == target}
            self.durable_names = elsewhere(self.durable_names) | here


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


def replay(trace, folder):
    disk, begun, syncing = Disk(folder), {}, {}
    for line in open(trace):
        thread = line.split(" ", 1)[0]
        if "<unfinished ...>" in line:
            begun[thread] = line.split("<unfinished")[0].rstrip()
            disk.acknowledge(line)
            sync = re.match(r"\d+ +(?:fsync|fdatasync)\((\d+)", line)
            if sync:
                # Data written during the sync is not covered by it.
                syncing[thread] = disk.snapshot(int(sync.group(1)))
            continue
        resumed = re.match(r"\d+ +<\.\.\. (\w+) resumed>(.*)", line)
        if resumed:
            line = begun.pop(thread, "") + resumed.group(2)
            if thread in syncing:
                snapshot = syncing.pop(thread)
                if re.search(r"= 0\b", line):
                    disk.synced(*snapshot)
                continue
        else:
            disk.acknowledge(line)
        call = CALL.match(line)
        if call and int(call.group(4)) >= 0:
            disk.call(call.group(2), call.group(3), int(call.group(4)))
    return disk


def main():
    trace, folder, scratch, names = sys.argv[1:5]
    check = sys.argv[6:]
    disk = replay(trace, folder)
    worst, least = 0, None
    for acknowledged, states in disk.cuts:
        shutil.rmtree(scratch, ignore_errors=True)
        for path in disk.folders:
            os.makedirs(scratch + path[len(folder):], mode=0o700, exist_ok=True)
        for path, content in states[names].items():
            with open(scratch + path[len(folder):], "wb") as file:
                file.write(content)
        out = subprocess.run([word.replace("{}", scratch) for word in check], capture_output=True, text=True)
        found = out.stdout.strip()
        if not found.isdigit():
            sys.exit(f"after acknowledgement {acknowledged}: the check said {found!r} {out.stderr[-2000:]}")
        if acknowledged - int(found) > worst:
            worst = acknowledged - int(found)
            least = f"{found} of {acknowledged}"
    print(f"acknowledged {disk.acknowledged}, cuts {len(disk.cuts)}, worst loss {worst} {least or ''}")
    sys.exit(0 if disk.cuts and worst == 0 else 1)


main()
