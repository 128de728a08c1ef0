"""Reads a mail with Python's `email` and answers it as mail programs do, for tests/it/roundtrip.

Reads a JSON object from standard input and writes one. Bytes are base64.
"""
import base64
import email
import email.message
import email.policy
import email.utils
import html
import json
import re
import sys


def looked_at(raw):
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    defects = []
    for part in mail.walk():
        defects += [repr(defect) for defect in part.defects]
        for name, value in part.items():
            defects += [f"{name}: {defect!r}" for defect in value.defects]
    files = []
    for part in mail.iter_attachments():
        content = base64.b64encode(part.get_payload(decode=True)).decode()
        files.append([part.get_filename(), part.get_content_type(), content])
    parts = {kind: mail.get_body((kind,)) for kind in ("plain", "html")}
    return mail, {
        "defects": defects,
        "longest": max(len(line) for line in raw.split(b"\r\n")),
        "bare": any(octet in raw.replace(b"\r\n", b"") for octet in b"\r\n\0"),
        "fields": [[name, str(value)] for name, value in mail.items()],
        "text": parts["plain"].get_content() if parts["plain"] else "",
        "html": parts["html"].get_content() if parts["html"] else "",
        "files": files,
    }


def answered(mail, seen, wish):
    new, style = wish["words"], wish["style"]
    text, page = seen["text"].replace("\r\n", "\n"), seen["html"]
    # Mail programs do not quote the frame of a page.
    inner = re.search(r"<body[^>]*>(.*)</body>", page, re.DOTALL)
    page = f"<u></u><div>{inner.group(1)}</div>" if inner else page
    sender, when = str(mail["From"]), str(mail["Date"])
    quoted = "\n".join("> " + line if line else ">" for line in text.split("\n"))
    answer = email.message.EmailMessage(policy=email.policy.SMTP)
    answer["From"] = wish["from"]
    answer["To"] = str(mail["Reply-To"])
    if "cc" in wish:
        answer["Cc"] = wish["cc"]
    subject = str(mail["Subject"])
    answer["Subject"] = subject if subject.lower().startswith("re:") else "Re: " + subject
    answer["Date"] = email.utils.formatdate()
    answer["Message-ID"] = wish["id"]
    answer["In-Reply-To"] = str(mail["Message-ID"])
    answer["References"] = f"{mail.get('References', '')} {mail['Message-ID']}".strip()
    new_page = html.escape(new).replace("\n", "<br>")
    if style == "plain":
        answer.set_content(f"{new}\n\nOn {when}, {sender} wrote:\n{quoted}\n")
    elif style == "german":
        answer.set_content(f"{new}\n\nAm {when} schrieb {sender}:\n{quoted}\n")
    elif style == "gmail":
        attribution = f"On {when} {sender} wrote:"
        answer.set_content(f"{new}\n\n{attribution}\n\n{quoted}\n")
        answer.add_alternative(
            f'<div dir="ltr">{new_page}</div><br><div class="gmail_quote gmail_quote_container">'
            f'<div dir="ltr" class="gmail_attr">{html.escape(attribution)}<br></div>'
            f'<blockquote class="gmail_quote" style="margin:0px 0px 0px 0.8ex;border-left:1px solid '
            f'rgb(204,204,204);padding-left:1ex">{page}</blockquote></div>',
            subtype="html",
        )
    elif style == "outlook":
        head = [("From", sender), ("Sent", when), ("To", wish["from"]), ("Subject", subject)]
        lines = "\n".join(f"{name}: {value}" for name, value in head)
        answer.set_content(f"{new}\n\n________________________________\n{lines}\n\n{text}\n")
        lines = "<br>".join(f"<b>{name}:</b> {html.escape(value)}" for name, value in head)
        answer.add_alternative(
            f'<html><body><div class="elementToProof">{new_page}</div><div id="appendonsend"></div>'
            f'<hr style="display:inline-block;width:98%" tabindex="-1"><div id="divRplyFwdMsg" '
            f'dir="ltr"><font face="Calibri, sans-serif">{lines}</font><div>&nbsp;</div></div>'
            f"<div>{page}</div></body></html>",
            subtype="html",
        )
    else:
        sys.exit(f"no such style: {style}")
    for name, content in wish.get("files", []):
        answer.add_attachment(
            base64.b64decode(content), maintype="application", subtype="octet-stream", filename=name
        )
    return answer.as_bytes()


def main():
    wish = json.load(sys.stdin)
    mail, seen = looked_at(base64.b64decode(wish["mail"]))
    if "style" in wish:
        seen["answer"] = base64.b64encode(answered(mail, seen, wish)).decode()
        seen["to"] = mail["Reply-To"].addresses[0].addr_spec
    json.dump(seen, sys.stdout)


main()
