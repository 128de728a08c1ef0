//! Owns the form of a token in a local part: its layout and its two alphabets.
//!
//! Does not verify signatures.

use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE, BASE64URL_NOPAD};

use super::{Format, digest, first_of};

/// Bytes of a v2 token: version and key id 1, thread 16, issued-at 4, participant 4, MAC 11.
pub(super) const V2_BYTES: usize = 36;
/// Bytes of a v2 token's MAC.
pub(super) const V2_MAC_BYTES: usize = 11;
/// The bytes of a v2 token that its MAC covers.
pub(super) const V2_SIGNED_BYTES: usize = V2_BYTES - V2_MAC_BYTES;
/// The high nibble of a v2 token's first byte. Old tokens of a hash have it too.
pub(super) const V2_VERSION: u8 = 2;
/// The high nibble of the first byte of a v2 token whose thread key is a hash.
pub(super) const V2_VERSION_HASH: u8 = 3;
/// Hex digits of a v1 token's signature.
pub(super) const V1_SIGNATURE_DIGITS: usize = 16;

const V2_CHARS: usize = (V2_BYTES * 8).div_ceil(5);
/// The position of the colon after a v1 token's thread id, counted from the last byte. Thirteen digits of
/// milliseconds last from 2001 to 2286.
const V1_ID_COLON: usize = V1_SIGNATURE_DIGITS + 1 + 13;
/// The length of a token with a thread id of one character.
const V1_CHARS_MIN: usize = ((V1_ID_COLON + 2) * 4).div_ceil(3);

/// A local part that has a token's form.
pub(super) enum TokenShape {
    V1(V1Token),
    V2([u8; V2_BYTES]),
    /// A v1 token whose case was changed.
    CaseLost,
}

/// The fields of a v1 token, not yet verified.
pub(super) struct V1Token {
    /// `{threadId}:{timestamp_ms}`, as it was signed.
    pub(super) signed: String,
    /// Length of the thread id at the start of `signed`.
    pub(super) id_bytes: usize,
    /// Milliseconds since the epoch.
    pub(super) issued_at: u64,
    pub(super) signature: [u8; V1_SIGNATURE_DIGITS],
}

/// A local part, parsed.
pub(super) struct TokenCandidate<'a> {
    /// The text that may be a token.
    pub(super) text: &'a str,
    /// True if the reply prefix stood before it: then it must be a token.
    pub(super) prefixed: bool,
}

impl<'a> TokenCandidate<'a> {
    /// Parses `prefix+TOKEN`, `prefix-TOKEN` or `TOKEN`. The prefix matches in any ASCII case.
    pub(super) fn of(local: &'a str, prefix: &str) -> Self {
        let rest = local
            .split_at_checked(prefix.len())
            .filter(|(word, _)| word.eq_ignore_ascii_case(prefix))
            .and_then(|(_, rest)| rest.strip_prefix(['+', '-']));
        Self {
            text: rest.unwrap_or(local),
            prefixed: rest.is_some(),
        }
    }

    /// The possible forms of the text, none or up to two: a v1 token of 58 characters may be base32 too,
    /// and only its signature distinguishes them. Percent-encoding is not decoded, because Postern never
    /// writes it.
    pub(super) fn shapes(&self) -> impl Iterator<Item = TokenShape> {
        self.v2().into_iter().chain(self.v1())
    }

    fn v2(&self) -> Option<TokenShape> {
        if self.text.len() != V2_CHARS {
            return None;
        }
        // Only ASCII is folded: a Kelvin sign is not a `k`.
        let bytes = BASE32_NOPAD_NOCASE.decode(self.text.as_bytes()).ok()?;
        let is_v2 =
            bytes.len() == V2_BYTES && matches!(bytes[0] >> 4, V2_VERSION | V2_VERSION_HASH);
        is_v2.then(|| TokenShape::V2(first_of(&bytes)))
    }

    fn v1(&self) -> Option<TokenShape> {
        let text = self.text.trim_end_matches('=');
        if let Some(v1) = V1Token::read(text) {
            return Some(TokenShape::V1(v1));
        }
        is_v1_but_for_case(text).then_some(TokenShape::CaseLost)
    }

    pub(super) fn digest(&self) -> [u8; 16] {
        digest(self.text)
    }
}

impl V1Token {
    fn read(text: &str) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let whole = String::from_utf8(bytes).ok()?;
        let (signed, signature) = whole.rsplit_once(':')?;
        let (thread_id, issued_at) = signed.rsplit_once(':')?;
        let digits = issued_at.bytes().all(|b| b.is_ascii_digit());
        let hex = signature.bytes().all(|b| b.is_ascii_hexdigit());
        if thread_id.is_empty() || !digits || !hex || signature.len() != V1_SIGNATURE_DIGITS {
            return None;
        }
        Some(Self {
            issued_at: issued_at.parse().ok()?,
            id_bytes: thread_id.len(),
            signature: first_of(signature.as_bytes()),
            signed: signed.to_owned(),
        })
    }
}

/// Writes the text of a token. v1 bytes are the text `{threadId}:{timestamp_ms}:{signature}`.
pub(super) fn write(format: Format, bytes: &[u8]) -> String {
    match format {
        Format::V1 => BASE64URL_NOPAD.encode(bytes),
        Format::V2 => BASE32_NOPAD.encode(bytes).to_ascii_lowercase(),
    }
}

/// True if the text could be a v1 token with all its letters folded to one case.
///
/// Each byte of base64 comes from two characters, and a folded letter may stand for either case: the text
/// matches if every byte can be valid at its place in a v1 token. So a mailbox with a long name is not
/// mistaken for a token.
fn is_v1_but_for_case(text: &str) -> bool {
    let chars = text.as_bytes();
    let lower = chars.iter().any(u8::is_ascii_lowercase);
    let upper = chars.iter().any(u8::is_ascii_uppercase);
    if chars.len() < V1_CHARS_MIN || chars.len() % 4 == 1 || (lower && upper) {
        return false;
    }
    let bytes = chars.len() * 3 / 4;
    (0..bytes).all(|at| {
        let first = at * 4 / 3;
        let shift = 2 * (at % 3 + 1);
        values(chars[first]).any(|left| {
            values(chars[first + 1])
                .any(|right| fits_v1((left << shift) | (right >> (6 - shift)), bytes - 1 - at))
        })
    })
}

/// True if a v1 token may have `byte` at this distance from its last byte.
fn fits_v1(byte: u8, before_last: usize) -> bool {
    match before_last {
        0..V1_SIGNATURE_DIGITS => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        V1_SIGNATURE_DIGITS | V1_ID_COLON => byte == b':',
        V1_SIGNATURE_DIGITS..V1_ID_COLON => byte.is_ascii_digit(),
        _ => byte.is_ascii_graphic(),
    }
}

/// The six-bit values of a base64url character, in either case.
fn values(char: u8) -> impl Iterator<Item = u8> {
    let cases = [char.to_ascii_lowercase(), char.to_ascii_uppercase()];
    cases.into_iter().filter_map(value)
}

const fn value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}
