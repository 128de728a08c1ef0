//! Owns the decoding of transfer encodings.
//!
//! Does not fail: broken encoding is skipped, because people use broken programs.

use std::borrow::Cow;
use std::ops::Range;

use super::{base64, uuencode};
use crate::mail::mime::TransferEncoding;

/// Decodes the body of a part.
pub(super) fn decoded(body: &[u8], encoding: TransferEncoding) -> Cow<'_, [u8]> {
    let Some((encoding, found)) = encoded(body, encoding) else {
        return Cow::Borrowed(body);
    };
    let mut bytes = Vec::with_capacity(found.len());
    decode(&body[found], encoding, |byte| bytes.push(byte));
    Cow::Owned(bytes)
}

/// The number of bytes that [`decoded`] returns.
pub(super) fn decoded_len(body: &[u8], encoding: TransferEncoding) -> usize {
    let Some((encoding, found)) = encoded(body, encoding) else {
        return body.len();
    };
    let mut count = 0;
    decode(&body[found], encoding, |_| count += 1);
    count
}

/// True if plain octets are before or after the encoded ones: a relay added them.
pub(super) fn has_additions(body: &[u8], encoding: TransferEncoding) -> bool {
    let Some((_, found)) = encoded(body, encoding) else {
        return false;
    };
    let around = [&body[..found.start], &body[found.end..]];
    around.iter().any(|octets| !octets.trim_ascii().is_empty())
}

/// The encoding, and the octets that it covers; `None` if nothing is encoded.
fn encoded(body: &[u8], encoding: TransferEncoding) -> Option<(TransferEncoding, Range<usize>)> {
    let found = match encoding {
        TransferEncoding::Identity => None,
        TransferEncoding::Base64 => base64::extent(body, false),
        TransferEncoding::Base64Text => base64::extent(body, true),
        TransferEncoding::QuotedPrintable | TransferEncoding::Uuencode => Some(0..body.len()),
    };
    let quoted = encoding == TransferEncoding::Base64Text && found.is_none() && is_quoted(body);
    let whole = quoted.then_some((TransferEncoding::QuotedPrintable, 0..body.len()));
    found.map(|found| (encoding, found)).or(whole)
}

/// True if each `=` in the text begins an octet above ASCII or a soft line break.
fn is_quoted(body: &[u8]) -> bool {
    let mut octets = 0;
    let marks = memchr::memchr_iter(b'=', body);
    let mut is_known = marks.map(|at| match &body[at + 1..] {
        [b'8' | b'9' | b'A'..=b'F', low, ..] if hex(*low).is_some() => {
            octets += 1;
            true
        }
        [b'\r', b'\n', ..] | [b'\n', ..] | [b'3', b'D', ..] | [b'2', b'0', ..] => true,
        _ => false,
    });
    let all = is_known.all(|is_known| is_known);
    drop(is_known);
    all && octets > 1
}

fn decode(body: &[u8], encoding: TransferEncoding, sink: impl FnMut(u8)) {
    match encoding {
        TransferEncoding::Base64 | TransferEncoding::Base64Text => base64::decode(body, sink),
        TransferEncoding::Identity => body.iter().copied().for_each(sink),
        TransferEncoding::QuotedPrintable => quoted_printable(body, sink),
        TransferEncoding::Uuencode => uuencode::decode(body, sink),
    }
}

/// Decodes quoted-printable (RFC 2045 section 6.7): white space at a line's end is dropped, and a `=` that
/// begins no escape stands for itself.
fn quoted_printable(body: &[u8], mut sink: impl FnMut(u8)) {
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let text = line.trim_ascii_end();
        let end = match line {
            [.., b'\r', b'\n'] => &line[line.len() - 2..],
            [.., b'\n'] => &line[line.len() - 1..],
            _ => &line[line.len()..],
        };
        let mut rest = text;
        loop {
            match rest {
                [b'=', high, low, ..] if hex(*high).is_some() && hex(*low).is_some() => {
                    sink(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                    rest = &rest[3..];
                }
                // A soft line break: the line continues.
                [b'='] => break,
                [byte, ..] => {
                    sink(*byte);
                    rest = &rest[1..];
                }
                [] => {
                    end.iter().copied().for_each(&mut sink);
                    break;
                }
            }
        }
    }
}

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn qp(text: &str) -> String {
        let bytes = decoded(text.as_bytes(), TransferEncoding::QuotedPrintable);
        String::from_utf8(bytes.into_owned()).unwrap()
    }

    #[test]
    fn quoted_printable_is_read_as_it_was_meant() {
        assert_eq!(qp("caf=C3=A9 =c3=a9"), "café é");
        assert_eq!(
            qp("one =\r\nline  \r\nnext\t\nlast= \n!"),
            "one line\r\nnext\nlast!"
        );
        assert_eq!(qp("1 =2 =ZZ = ="), "1 =2 =ZZ = ");
    }

    #[test]
    fn base64_skips_foreign_characters() {
        let of = |text: &str| {
            let bytes = decoded(text.as_bytes(), TransferEncoding::Base64).into_owned();
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(of("aGVs\r\nbG8=\r\n-- \r\n"), "hello");
        assert_eq!(of("aGVsbG8=d29ybGQ="), "helloworld");
        assert_eq!(of("aGVsbG8"), "hello");
    }

    #[test]
    fn quoted_printable_text_is_decoded_despite_its_label() {
        for (body, text) in [
            (
                "Gr=C3=BC=C3=9Fe aus =\nBerlin, bitte.",
                "Grüße aus Berlin, bitte.",
            ),
            ("a=5, b=C3, please", "a=5, b=C3, please"),
            ("Hello, please come.", "Hello, please come."),
        ] {
            let bytes = decoded(body.as_bytes(), TransferEncoding::Base64Text);
            assert_eq!(str::from_utf8(&bytes).unwrap(), text);
            assert_eq!(
                decoded_len(body.as_bytes(), TransferEncoding::Base64Text),
                text.len()
            );
        }
    }

    proptest! {
        #[test]
        fn the_length_is_that_of_the_bytes(body: Vec<u8>) {
            for encoding in [TransferEncoding::Base64, TransferEncoding::QuotedPrintable] {
                let bytes = decoded(&body, encoding);
                prop_assert_eq!(decoded_len(&body, encoding), bytes.len());
                prop_assert!(bytes.len() <= body.len());
            }
        }

        #[test]
        fn base64_comes_back_whole(bytes: Vec<u8>) {
            let text = data_encoding::BASE64_MIME.encode(&bytes);
            let back = decoded(text.as_bytes(), TransferEncoding::Base64);
            prop_assert_eq!(back.as_ref(), bytes.as_slice());
        }
    }
}
