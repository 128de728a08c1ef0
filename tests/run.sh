#!/usr/bin/env bash
# Runs all tests: installs missing programs from Debian, then runs formatter, clippy, docs, cargo deny and
# every test. Usage: tests/run.sh [arguments for cargo test]
set -euo pipefail
cd "$(dirname "$0")/.."

# Prints the next step, and the seconds so far.
step() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

# program:package
programs=(cc:gcc c++:g++ chromium:chromium curl:curl dovecot:dovecot-imapd node:nodejs openssl:openssl
    postfix:postfix python3:python3 strace:strace swaks:swaks)
missing=()
for pair in "${programs[@]}"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
# swaks needs it for TLS, but only recommends it.
perl -MNet::SSLeay -e 1 2>/dev/null || missing+=(libnet-ssleay-perl)
if [ "${#missing[@]}" -gt 0 ]; then
    step "installing ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing: ${missing[*]} (run as root, or install them with apt-get)" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! target/venv/bin/python -c 'import authres, dkim, moto, nacl, yaml' 2>/dev/null; then
    step "installing dkimpy, the independent signer, and moto, which speaks S3"
    python3 -m venv target/venv
    target/venv/bin/pip install -q dkimpy==1.1.8 pynacl==1.6.2 authres==1.2.0 pyyaml==6.0.3 'moto[server]==5.2.5'
fi

step "cargo fmt --check"
cargo fmt --check

step "cargo clippy"
cargo clippy --all-targets -- -D warnings

step "the fuzz targets build"
cargo clippy --locked --quiet --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings

step "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

step "cargo deny"
if ! cargo deny --version >/dev/null 2>&1; then
    # Built without optimisation: it runs twice.
    cargo install cargo-deny --locked --quiet --debug
fi
cargo deny --log-level error check bans licenses sources
status=0
advisories=$(timeout 3m cargo deny --log-level error check advisories 2>&1) || status=$?
if [ "$status" -ne 0 ]; then
    echo "$advisories"
    # 124 is the exit code of a timeout.
    if [ "$status" -ne 124 ] && [[ $advisories != *"failed to fetch advisory database"* ]]; then
        exit 1
    fi
    echo "NOT CHECKED: the advisory database cannot be reached; bans, licences and sources were checked"
fi

step "the sink, an independent SMTP server"
cargo build --release --locked --quiet --manifest-path benches/sink/Cargo.toml --target-dir target/sink

step "cargo test"
# All tests take about six minutes on two cores after the build; a hanging test is ended, and the last lines name it.
timeout --kill-after=1m 60m cargo test --no-fail-fast "$@" 2>&1 | tee target/tests.log
if [ "$#" -eq 0 ]; then
    step "the quick attacks of tests/attacks"
    tests/attacks/run.py
fi
step "all passed"
# Tests without their inputs: tests/it/needs.rs describes which inputs are required.
grep -a "NOT TESTED" target/tests.log | sort -u || true
