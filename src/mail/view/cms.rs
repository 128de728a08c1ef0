//! Owns the reading of a CMS structure (RFC 5652): the mail within an opaque signature or within compressed
//! data (RFC 3274), which needs no key.
//!
//! Does not verify signatures or decrypt. The reading is bounded: it uses no recursion, and every
//! step advances in the octets.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

/// The maximum number of octets that compressed data may become, for each octet of it. Mail in base64 becomes
/// a few times as long.
const RATIO_MAX: usize = 20;
/// The number of octets that any compressed data may become.
const INFLATED_MIN: usize = 64 * 1024;

/// The maximum number of structures around the content that are entered.
const NESTING_MAX: usize = 8;

/// The content of a CMS structure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Signed data, with the octets that were signed.
    Signed(Vec<u8>),
    /// Compressed data, with the octets as they were before.
    Compressed(Vec<u8>),
    /// Encrypted data.
    Encrypted,
    /// Another content, or an unreadable one.
    Other,
}

const SIGNED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
const ENVELOPED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03";
const ENCRYPTED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06";
const AUTH_ENVELOPED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17";

const COMPRESSED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09";

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const OCTETS_IN_PIECES: u8 = 0x24;
const EXPLICIT_0: u8 = 0xa0;

/// Reads a structure in BER, of which DER is a part (X.690). Compressed data that becomes longer than
/// `inflated_max` octets, or [`RATIO_MAX`] times as long as it is, is not read.
pub(super) fn read(octets: &[u8], inflated_max: usize) -> Content {
    let mut reader = Reader { rest: octets };
    let Some(kind) = reader.content_type() else {
        return Content::Other;
    };
    if [ENVELOPED_DATA, ENCRYPTED_DATA, AUTH_ENVELOPED_DATA].contains(&kind) {
        return Content::Encrypted;
    }
    let content = match kind {
        SIGNED_DATA => reader.content(SET).map(Content::Signed),
        COMPRESSED_DATA => {
            let packed = reader.content(SEQUENCE);
            let inflated = packed.and_then(|packed| inflated(&packed, inflated_max));
            inflated.map(Content::Compressed)
        }
        _ => None,
    };
    content.unwrap_or(Content::Other)
}

/// The octets that a zlib stream (RFC 1950) contains; `None` if they are too many, or the stream is broken.
fn inflated(packed: &[u8], inflated_max: usize) -> Option<Vec<u8>> {
    let bound = packed
        .len()
        .saturating_mul(RATIO_MAX)
        .max(INFLATED_MIN)
        .min(inflated_max);
    let mut octets = Vec::new();
    let one_more = u64::try_from(bound).ok()?.checked_add(1)?;
    let mut stream = ZlibDecoder::new(packed).take(one_more);
    stream.read_to_end(&mut octets).ok()?;
    (octets.len() <= bound).then_some(octets)
}

/// The octets that are not read yet. The fields of a structure are read in order, so its end is not needed
/// until the content is found.
struct Reader<'a> {
    rest: &'a [u8],
}

/// A tag and the length of its contents; no length if an end mark ends them.
struct Head {
    tag: u8,
    length: Option<usize>,
}

impl<'a> Reader<'a> {
    /// The OID at the beginning of a ContentInfo.
    fn content_type(&mut self) -> Option<&'a [u8]> {
        self.enter(SEQUENCE)?;
        self.value(OBJECT_ID)
    }

    /// The content of SignedData (RFC 5652 section 5.1), whose second field is a set, or of CompressedData
    /// (RFC 3274 section 1.1), whose second field is a sequence.
    fn content(&mut self, second: u8) -> Option<Vec<u8>> {
        self.enter(EXPLICIT_0)?;
        self.enter(SEQUENCE)?;
        self.value(INTEGER)?;
        self.skip(second)?;
        self.enter(SEQUENCE)?;
        self.value(OBJECT_ID)?;
        self.enter(EXPLICIT_0)?;
        self.octet_string()
    }

    fn head(&mut self) -> Option<Head> {
        let (&tag, rest) = self.rest.split_first()?;
        if tag & 0x1f == 0x1f {
            // Every tag in CMS has one octet.
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0x80 => None,
            0..=0x7f => Some(usize::from(first)),
            _ => {
                let count = usize::from(first & 0x7f);
                let digits = rest.get(..count)?;
                rest = &rest[count..];
                let mut length = 0usize;
                for digit in digits {
                    length = length.checked_mul(256)?.checked_add(usize::from(*digit))?;
                }
                Some(length)
            }
        };
        // Only a structure with parts can end by a mark.
        if length.is_none() && tag & 0x20 == 0 {
            return None;
        }
        self.rest = rest;
        Some(Head { tag, length })
    }

    /// Enters a structure.
    fn enter(&mut self, tag: u8) -> Option<()> {
        let head = self.head()?;
        (head.tag == tag).then_some(())
    }

    /// The octets of a value without parts.
    fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        let head = self.head()?;
        let length = head.length.filter(|_| head.tag == tag)?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let value = self.rest.get(..length)?;
        self.rest = &self.rest[length..];
        Some(value)
    }

    /// Skips a structure with all its contents.
    fn skip(&mut self, tag: u8) -> Option<()> {
        let head = self.head()?;
        if head.tag != tag {
            return None;
        }
        if let Some(length) = head.length {
            return self.take(length).map(|_| ());
        }
        let mut open = 1usize;
        while open > 0 {
            let head = self.head()?;
            match (head.tag, head.length) {
                (0, Some(0)) => open -= 1,
                (_, Some(length)) => {
                    self.take(length)?;
                }
                (_, None) => open += 1,
            }
        }
        Some(())
    }

    /// An octet string, whole or in pieces (X.690 section 8.7).
    fn octet_string(&mut self) -> Option<Vec<u8>> {
        let head = self.head()?;
        if head.tag == OCTETS {
            return self.take(head.length?).map(<[u8]>::to_vec);
        }
        if head.tag != OCTETS_IN_PIECES {
            return None;
        }
        // For each open string, the number of octets that are left when it ends; none if an end mark ends it.
        let mut open = vec![self.end_of(&head)?];
        let mut content = Vec::new();
        while let Some(end) = open.last().copied() {
            if end == Some(self.rest.len()) {
                open.pop();
                continue;
            }
            let head = self.head()?;
            match head.tag {
                0 if head.length == Some(0) && end.is_none() => {
                    open.pop();
                }
                OCTETS => content.extend_from_slice(self.take(head.length?)?),
                OCTETS_IN_PIECES if open.len() < NESTING_MAX => open.push(self.end_of(&head)?),
                _ => return None,
            }
            if end.is_some_and(|end| self.rest.len() < end) {
                return None;
            }
        }
        Some(content)
    }

    /// The number of octets that are left after a structure; the inner `None` if an end mark ends it. Fails
    /// if the structure is longer than the input.
    fn end_of(&self, head: &Head) -> Option<Option<usize>> {
        match head.length {
            None => Some(None),
            Some(length) => self.rest.len().checked_sub(length).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use flate2::Compression;
    use flate2::read::ZlibEncoder;

    /// A structure with one tag; if `is_open`, a mark ends it.
    fn wrap(tag: u8, is_open: bool, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        if is_open {
            out.push(0x80);
            out.extend_from_slice(content);
            out.extend([0, 0]);
            return out;
        }
        match content.len() {
            length @ 0..=0x7f => out.push(length.to_le_bytes()[0]),
            length => {
                out.push(0x82);
                out.extend(&length.to_be_bytes()[6..]);
            }
        }
        out.extend_from_slice(content);
        out
    }

    fn signed(is_open: bool, octets: &[u8]) -> Vec<u8> {
        let data = wrap(OBJECT_ID, false, b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01");
        let inner = [data, wrap(EXPLICIT_0, is_open, octets)].concat();
        let version = wrap(INTEGER, false, &[1]);
        let digests = wrap(
            SET,
            is_open,
            &wrap(SEQUENCE, is_open, &wrap(OBJECT_ID, false, b"x")),
        );
        let parts = [version, digests, wrap(SEQUENCE, is_open, &inner)].concat();
        let body = wrap(EXPLICIT_0, is_open, &wrap(SEQUENCE, is_open, &parts));
        let kind = wrap(OBJECT_ID, false, SIGNED_DATA);
        wrap(SEQUENCE, is_open, &[kind, body].concat())
    }

    fn read_all(octets: &[u8]) -> Content {
        read(octets, usize::MAX)
    }

    fn zlib(octets: &[u8]) -> Vec<u8> {
        let mut out = ZlibEncoder::new(octets, Compression::best());
        let mut packed = Vec::new();
        out.read_to_end(&mut packed).unwrap();
        packed
    }

    fn compressed(is_open: bool, octets: &[u8]) -> Vec<u8> {
        let data = wrap(OBJECT_ID, false, b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01");
        let inner = [data, wrap(EXPLICIT_0, is_open, octets)].concat();
        let method = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x03\x08";
        let method = wrap(SEQUENCE, is_open, &wrap(OBJECT_ID, false, method));
        let parts = [
            wrap(INTEGER, false, &[0]),
            method,
            wrap(SEQUENCE, is_open, &inner),
        ];
        let body = wrap(
            EXPLICIT_0,
            is_open,
            &wrap(SEQUENCE, is_open, &parts.concat()),
        );
        let kind = wrap(OBJECT_ID, false, COMPRESSED_DATA);
        wrap(SEQUENCE, is_open, &[kind, body].concat())
    }

    #[test]
    fn compressed_content_is_read_within_its_bounds() {
        let words = b"Content-Type: text/plain\r\n\r\nOui".to_vec();
        for is_open in [false, true] {
            let packed = wrap(OCTETS, false, &zlib(&words));
            assert_eq!(
                read_all(&compressed(is_open, &packed)),
                Content::Compressed(words.clone())
            );
            let pieces = wrap(OCTETS_IN_PIECES, true, &packed);
            let whole = compressed(is_open, &pieces);
            assert_eq!(
                read(&whole, words.len()),
                Content::Compressed(words.clone())
            );
            assert_eq!(read(&whole, words.len() - 1), Content::Other);
            for end in 0..whole.len() {
                let _ = read_all(&whole[..end]);
            }
        }
        // Words that are not compressed at all.
        let plain = compressed(true, &wrap(OCTETS, false, &words));
        assert_eq!(read_all(&plain), Content::Other);
        // A bomb: a thousand times as long as it is.
        let bomb = zlib(&vec![b' '; 30_000_000]);
        assert!(bomb.len() < 0xffff, "{}", bomb.len());
        let bomb = wrap(OCTETS, false, &bomb);
        assert_eq!(read_all(&compressed(false, &bomb)), Content::Other);
    }

    #[test]
    fn signed_content_is_read_in_every_form() {
        let whole = wrap(OCTETS, false, b"Content-Type: text/plain\r\n\r\nJa");
        let pieces = [
            wrap(OCTETS, false, b"Content-Type: text/plain\r\n"),
            wrap(OCTETS, false, b"\r\nJa"),
        ];
        let nested = wrap(OCTETS_IN_PIECES, true, &pieces.concat());
        for octets in [
            whole,
            wrap(OCTETS_IN_PIECES, true, &pieces.concat()),
            wrap(OCTETS_IN_PIECES, false, &pieces.concat()),
            wrap(OCTETS_IN_PIECES, true, &nested),
        ] {
            for is_open in [false, true] {
                assert_eq!(
                    read_all(&signed(is_open, &octets)),
                    Content::Signed(b"Content-Type: text/plain\r\n\r\nJa".to_vec())
                );
            }
        }
    }

    #[test]
    fn unreadable_structures_stay_closed() {
        let kind = wrap(OBJECT_ID, false, ENVELOPED_DATA);
        assert_eq!(read_all(&wrap(SEQUENCE, true, &kind)), Content::Encrypted);
        let whole = signed(false, &wrap(OCTETS, false, b"words"));
        for end in 0..whole.len() {
            assert_eq!(read_all(&whole[..end]), Content::Other, "{end}");
        }
        // A signature without content belongs to data elsewhere.
        assert_eq!(read_all(&signed(true, b"")), Content::Other);
        let deep = b"\x24\x80".repeat(5_000_000);
        assert_eq!(read_all(&signed(true, &deep)), Content::Other);
        let sets = signed(true, b"").split_off(0);
        let bomb = [&sets[..20], &b"\x31\x80".repeat(5_000_000)].concat();
        assert_eq!(read_all(&bomb), Content::Other);
        assert_eq!(
            read_all(b"\x30\x84\xff\xff\xff\xff\x06\x09"),
            Content::Other
        );
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets: Vec<u8>, at in 0..200usize, byte: u8) {
            let _ = read_all(&octets);
            let mut broken = signed(true, &wrap(OCTETS_IN_PIECES, true, &wrap(OCTETS, false, &octets)));
            let at = at % broken.len();
            broken[at] = byte;
            if let Content::Signed(content) = read_all(&broken) {
                prop_assert!(content.len() <= broken.len());
            }
        }
    }
}
