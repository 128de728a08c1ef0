"""Signs and seals mails with dkimpy, makes keys, and turns YAML into JSON, for tests/it/auth.

Reads JSON objects from standard input, one per line, and writes one line for each. Bytes are base64.
"""
import base64
import json
import re
import subprocess
import sys
import time


# dkimpy reads the clock itself; a step may set it.
CLOCK = time.time


def run(*words, stdin=None):
    return subprocess.run(words, input=stdin, capture_output=True, check=True).stdout


def make_key(kind, bits):
    if kind == "ed25519":
        import nacl.encoding
        import nacl.signing

        key = nacl.signing.SigningKey.generate()
        encoder = nacl.encoding.Base64Encoder
        public = key.verify_key.encode(encoder=encoder).decode()
        return key.encode(encoder=encoder).decode(), f"v=DKIM1; k=ed25519; p={public}"
    pem = run("openssl", "genrsa", "-traditional", str(bits))
    der = run("openssl", "rsa", "-pubout", "-outform", "DER", stdin=pem)
    return pem.decode(), f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


def sign(mail, step):
    """Adds a DKIM-Signature on top. `tags` are added, `names` replace h= regardless of dkimpy's checks."""
    import dkim

    class Signer(dkim.DKIM):
        def gen_header(self, fields, include_headers, *rest, **named):
            at = [name for name, _ in fields].index(b"h")
            for name, value in step.get("tags", {}).items():
                fields.insert(at, (name.encode(), value.encode()))
            if "names" in step:
                include_headers = tuple(name.lower().encode() for name in step["names"])
                at = [name for name, _ in fields].index(b"h")
                fields[at] = (b"h", b" : ".join(include_headers))
            return super().gen_header(fields, include_headers, *rest, **named)

    now = step.get("time", CLOCK())
    dkim.time.time = lambda: now
    signer = Signer(mail)
    forms = step.get("forms", "relaxed/relaxed").encode().split(b"/")
    header = signer.sign(
        step["selector"].encode(),
        step["domain"].encode(),
        step["private"].encode(),
        signature_algorithm=step.get("algorithm", "rsa-sha256").encode(),
        identity=step["identity"].encode() if "identity" in step else None,
        canonicalize=tuple(forms),
        include_headers=[b"from", b"to", b"subject", b"date"],
        length=step.get("length", False),
    )
    return header + mail


def seal(mail, step):
    """Adds an ARC set of an intermediary with these `results`."""
    import dkim

    server = step["server"]
    results = f"Authentication-Results: {server}; {step['results']}\r\n".encode()
    lines = dkim.arc_sign(
        results + mail,
        step["selector"].encode(),
        step["domain"].encode(),
        step["private"].encode(),
        server.encode(),
        timestamp=step["time"],
        include_headers=[b"from", b"to", b"subject", b"date"],
    )
    assert lines, "dkimpy made no seal"
    return b"".join(lines) + mail


def verify(mail, records):
    """The results of dkimpy for the first signature and for the ARC chain."""
    import dkim

    def ask(name, timeout=5):
        record = records.get(name.decode().rstrip("."))
        return record.encode() if record else None

    # A signature made for another time has left that time here.
    dkim.time.time = CLOCK
    chain = dkim.arc_verify(mail, dnsfunc=ask)[0]
    return {"dkim": dkim.verify(mail, dnsfunc=ask), "arc": (chain or b"none").decode().lower()}


def plain(value):
    """YAML in the form of JSON; text that is not ASCII as its UTF-8 bytes under the key `base64`."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)


def answer(wish):
    if "yaml" in wish:
        import yaml

        with open(wish["yaml"], "rb") as file:
            return [plain(document) for document in yaml.safe_load_all(file) if document]
    if "keys" in wish:
        return [make_key(kind, bits) for kind, bits in wish["keys"]]
    mail = base64.b64decode(wish["mail"])
    if "verify" in wish:
        return verify(mail, wish["verify"])
    for step in wish["steps"]:
        mail = (seal if "server" in step else sign)(mail, step)
    # dkimpy folds with CRLF here, but may leave a bare LF at a field's end.
    return base64.b64encode(re.sub(rb"(?<!\r)\n", b"\r\n", mail)).decode()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
