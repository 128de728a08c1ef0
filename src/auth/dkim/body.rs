//! Owns the canonical forms of a mail's body (RFC 6376 sections 3.4.3 and 3.4.4) and their hashes.
//!
//! Does not use mail-auth's relaxed form, which keeps trailing lines of white space that the RFC removes:
//! common mails would not verify.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A larger body is hashed off the async threads.
const BYTES_INLINE: usize = 128 * 1024;
/// Octets that are collected before they are hashed.
const CHUNK_BYTES: usize = 8 * 1024;

/// The hashes of a mail's body in the required forms.
#[derive(Debug, Default)]
pub(in crate::auth) struct BodyHashes {
    simple: Option<Vec<u8>>,
    relaxed: Option<Vec<u8>>,
}

impl BodyHashes {
    /// Hashes the body at `start` in the required forms: simple, relaxed.
    pub(in crate::auth) async fn compute(
        mail: &Bytes,
        start: usize,
        (simple, relaxed): (bool, bool),
    ) -> Self {
        let body = mail.slice(start..);
        let is_big = body.len() > BYTES_INLINE && (simple || relaxed);
        let work = move || Self {
            simple: simple.then(|| hash(&body, false)),
            relaxed: relaxed.then(|| hash(&body, true)),
        };
        if !is_big {
            return work();
        }
        // Without hashes no signature verifies: the mail counts as unsigned.
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }

    pub(super) fn of(&self, is_simple: bool) -> Option<&[u8]> {
        let hash = if is_simple {
            &self.simple
        } else {
            &self.relaxed
        };
        hash.as_deref()
    }
}

fn hash(body: &[u8], is_relaxed: bool) -> Vec<u8> {
    let mut sha256 = Sha256::new();
    let mut gathered = Vec::with_capacity(2 * CHUNK_BYTES);
    canonical(body, is_relaxed, &mut gathered, |octets| {
        sha256.update(octets);
    });
    sha256.finalize().to_vec()
}

/// Passes the canonical body to `sink` piece by piece. A bare LF counts as a line end.
fn canonical(body: &[u8], is_relaxed: bool, out: &mut Vec<u8>, mut sink: impl FnMut(&[u8])) {
    let mut empty_lines = 0_usize;
    let mut has_lines = false;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if is_relaxed {
            without_end_space(line)
        } else {
            line
        };
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) {
            out.extend_from_slice(b"\r\n");
            flush(out, CHUNK_BYTES, &mut sink);
        }
        if is_relaxed {
            push_relaxed(line, out);
        } else {
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
        has_lines = true;
        flush(out, CHUNK_BYTES, &mut sink);
    }
    // An empty body is one line end in the simple form only.
    if !is_relaxed && !has_lines {
        out.extend_from_slice(b"\r\n");
    }
    flush(out, 1, &mut sink);
}

fn flush(out: &mut Vec<u8>, least: usize, sink: &mut impl FnMut(&[u8])) {
    if out.len() >= least {
        sink(out);
        out.clear();
    }
}

/// Writes each run of white space as one space.
fn push_relaxed(line: &[u8], out: &mut Vec<u8>) {
    let mut rest = line;
    while let Some(at) = rest.iter().position(is_space) {
        out.extend_from_slice(&rest[..at]);
        out.push(b' ');
        let run = rest[at..].iter().take_while(|byte| is_space(byte)).count();
        rest = &rest[at + run..];
    }
    out.extend_from_slice(rest);
}

fn without_end_space(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !is_space(byte));
    &line[..end.map_or(0, |last| last + 1)]
}

const fn is_space(byte: &u8) -> bool {
    matches!(*byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(body: &str, is_relaxed: bool) -> String {
        let mut whole = Vec::new();
        canonical(body.as_bytes(), is_relaxed, &mut Vec::new(), |octets| {
            whole.extend_from_slice(octets);
        });
        String::from_utf8(whole).unwrap()
    }

    /// The example of RFC 6376 section 3.4.5, and different ends of bodies.
    #[test]
    fn bodies_have_two_forms() {
        for (body, relaxed, simple) in [
            (
                " C \r\nD \t E\r\n\r\n\r\n",
                " C\r\nD E\r\n",
                " C \r\nD \t E\r\n",
            ),
            ("", "", "\r\n"),
            ("\r\n\r\n", "", "\r\n"),
            (" \t\r\n", "", " \t\r\n"),
            ("a\r\n \t\r\n\r\n", "a\r\n", "a\r\n \t\r\n"),
            ("a\r\n \r\nb", "a\r\n\r\nb\r\n", "a\r\n \r\nb\r\n"),
            ("a\nb\n", "a\r\nb\r\n", "a\r\nb\r\n"),
        ] {
            assert_eq!(form(body, true), relaxed, "{body:?}");
            assert_eq!(form(body, false), simple, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn a_form_is_its_own_form(body in "([ab \t\r]|\r\n){0,60}", is_relaxed: bool) {
            let once = form(&body, is_relaxed);
            prop_assert_eq!(form(&once, is_relaxed), once);
        }

        /// Trailing lines of white space, and runs of white space, do not change the relaxed form.
        #[test]
        fn white_space_is_relaxed(lines in proptest::collection::vec("[ab]{1,3}( [ab]{1,3}){0,3}", 0..8)) {
            let tidy: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let wild: String = lines
                .iter()
                .map(|line| format!("{} \t\r\n", line.replace(' ', "\t  ")))
                .collect();
            prop_assert_eq!(form(&tidy, true), tidy.clone());
            prop_assert_eq!(form(&format!("{wild} \r\n\t\r\n\r\n"), true), tidy);
        }
    }
}
