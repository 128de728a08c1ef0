"""Parses a mail from standard input with Python's email package, strictly, and prints its content as JSON. Any
defect, in the structure or in a field, is an error."""

import email.policy
import json
import sys
from email.parser import BytesParser

raw = sys.stdin.buffer.read()
lines = raw.split(b"\r\n")
assert lines[-1] == b"", "the last line has no end"
assert all(b"\r" not in line and b"\n" not in line for line in lines), "bare CR or LF"
assert max(map(len, lines)) <= 998, "a line is too long"
assert raw.isascii(), "not ASCII"

policy = email.policy.default.clone(raise_on_defect=True)
mail = BytesParser(policy=policy).parsebytes(raw)
parts = []
for part in mail.walk():
    assert not part.defects, part.defects
    for name, value in part.items():
        assert not value.defects, (name, value.defects)
    entry = {"type": part.get_content_type(), "filename": part.get_filename()}
    if not part.is_multipart():
        content = part.get_content()
        entry["size"] = len(content)
        if isinstance(content, str):
            entry["text"] = content.replace("\r\n", "\n")
    parts.append(entry)


def people(name):
    field = mail[name]
    return [[a.display_name, a.addr_spec] for a in field.addresses] if field else []


print(json.dumps({
    "names": [name for name in mail.keys()],
    "fields": {name: str(value) for name, value in mail.items()},
    "from": people("From"),
    "to": people("To"),
    "reply_to": people("Reply-To"),
    "parts": parts,
}))
