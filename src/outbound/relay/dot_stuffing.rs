//! Owns the form of a mail after DATA: dots doubled, and one terminator (RFC 5321 section 4.5.2).
//!
//! Does not repair a mail: one that is not in canonical form is refused.

use memchr::memchr3_iter;
use thiserror::Error;

/// The most octets of a line without its end (RFC 5322 section 2.1.1).
const LINE_BYTES_MAX: usize = 998;

/// The reason why a mail is not in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotCanonicalError {
    /// The mail has a CR without LF or an LF without CR, which servers interpret differently.
    #[error("a bare CR or LF at octet {0}")]
    BareLineEnd(usize),
    /// A line is longer than RFC 5322 allows.
    #[error("a line longer than 998 octets at octet {0}")]
    LineTooLong(usize),
    /// The mail contains a NUL (RFC 5322 section 4).
    #[error("a NUL at octet {0}")]
    Nul(usize),
}

/// The concatenated parts as they are sent over the wire, with the terminator.
///
/// # Errors
/// Says how and where the canonical form is violated.
pub fn dot_stuffed(parts: &[&[u8]]) -> Result<Vec<u8>, NotCanonicalError> {
    let mail = parts.concat();
    check(&mail)?;
    let mut wire = Vec::with_capacity(mail.len() + mail.len() / 64 + 8);
    let mut from = 0;
    if mail.first() == Some(&b'.') {
        wire.push(b'.');
    }
    for at in memchr::memmem::find_iter(&mail, b"\r\n.") {
        wire.extend_from_slice(&mail[from..at + 3]);
        wire.push(b'.');
        from = at + 3;
    }
    wire.extend_from_slice(&mail[from..]);
    if !mail.is_empty() && !mail.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    Ok(wire)
}

fn check(mail: &[u8]) -> Result<(), NotCanonicalError> {
    let mut start = 0;
    for at in memchr3_iter(b'\r', b'\n', 0, mail) {
        match mail[at] {
            0 => return Err(NotCanonicalError::Nul(at)),
            b'\r' if mail.get(at + 1) != Some(&b'\n') => {
                return Err(NotCanonicalError::BareLineEnd(at));
            }
            b'\r' if at - start > LINE_BYTES_MAX => {
                return Err(NotCanonicalError::LineTooLong(start));
            }
            b'\n' if at == 0 || mail[at - 1] != b'\r' => {
                return Err(NotCanonicalError::BareLineEnd(at));
            }
            b'\n' => start = at + 1,
            _ => {}
        }
    }
    if mail.len() - start > LINE_BYTES_MAX {
        return Err(NotCanonicalError::LineTooLong(start));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dots_are_doubled_at_the_start_of_lines_only() {
        for (mail, wire) in [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n.\r\n", "..\r\n..\r\n.\r\n"),
            ("a\r\n..\r\na.b\r\n", "a\r\n...\r\na.b\r\n.\r\n"),
            ("\r\n\r\n.", "\r\n\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(dot_stuffed(&[mail.as_bytes()]).unwrap(), wire.as_bytes());
        }
        assert_eq!(
            dot_stuffed(&[b"a\r\n", b".b\r\n"]).unwrap(),
            b"a\r\n..b\r\n.\r\n"
        );
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let long = "x".repeat(999);
        for (mail, error) in [
            ("a\n.\r\n", NotCanonicalError::BareLineEnd(1)),
            ("a\r.\r\n", NotCanonicalError::BareLineEnd(1)),
            ("\n", NotCanonicalError::BareLineEnd(0)),
            ("a\r\n\n.\n", NotCanonicalError::BareLineEnd(3)),
            ("a\r", NotCanonicalError::BareLineEnd(1)),
            ("a\r\r\n", NotCanonicalError::BareLineEnd(1)),
            ("a\0", NotCanonicalError::Nul(1)),
            (
                &format!("a\r\n{long}\r\n"),
                NotCanonicalError::LineTooLong(3),
            ),
            (&long, NotCanonicalError::LineTooLong(0)),
        ] {
            assert_eq!(dot_stuffed(&[mail.as_bytes()]), Err(error), "{mail:?}");
        }
        let line = "x".repeat(998);
        assert!(dot_stuffed(&[format!("{line}\r\n{line}").as_bytes()]).is_ok());
    }

    proptest! {
        #[test]
        fn a_receiver_reads_back_what_was_sent(
            lines in proptest::collection::vec("[.a\r\n]{0,6}", 0..9)
        ) {
            let mail: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let Ok(wire) = dot_stuffed(&[mail.as_bytes()]) else { return Ok(()) };
            let wire = String::from_utf8(wire).unwrap();
            let end = wire.find("\r\n.\r\n").map_or(0, |at| at + 2);
            prop_assert_eq!(&wire[end..], ".\r\n", "the terminator is the end, and there is one");
            let read: String = wire[..end]
                .split_inclusive("\r\n")
                .map(|line| line.strip_prefix('.').unwrap_or(line))
                .collect();
            prop_assert_eq!(read, mail);
        }
    }
}
