//! Owns finding addresses in running text.

use crate::mail::address::Address;

/// The upper bound of addresses found in one text.
const ADDRESSES_MAX: usize = 500;

/// An address in a text, and its position.
#[derive(Clone, Debug)]
pub(super) struct FoundAddress {
    /// The address.
    pub(super) address: Address,
    /// Byte offset of its first character.
    pub(super) start: usize,
    /// Byte offset after its last character.
    pub(super) end: usize,
}

/// All addresses in `text`, from left to right, also those within URLs and Message-IDs.
pub(super) fn addresses(text: &str) -> Vec<FoundAddress> {
    let mut found = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices('@') {
        if found.len() >= ADDRESSES_MAX {
            break;
        }
        if at < from {
            continue;
        }
        if let Some(one) = address_around(text, from, at) {
            from = one.end;
            found.push(one);
        }
    }
    found
}

/// The first address in `text`.
pub(super) fn first(text: &str) -> Option<Address> {
    addresses(text)
        .into_iter()
        .next()
        .map(|found| found.address)
}

/// The address with the `@` at offset `at`, beginning at `from` or later. A local part has 64 octets and a
/// domain 255, so both scans are short.
fn address_around(text: &str, from: usize, at: usize) -> Option<FoundAddress> {
    const REACH_MAX: usize = 320;
    let floor = text
        .floor_char_boundary(at.saturating_sub(REACH_MAX))
        .max(from);
    let roof = text.floor_char_boundary((at + REACH_MAX).min(text.len()));
    if let Some(found) = quoted_address(text, floor, at, roof) {
        return Some(found);
    }
    let local = text[floor..at].rfind(|c: char| !is_local(c));
    let start = local.map_or(floor, |i| {
        floor + i + text[floor + i..].chars().next().map_or(1, char::len_utf8)
    });
    let skip =
        text[start..at].find(|c: char| !matches!(c, '\'' | '`' | '.' | '*' | '=' | '#' | '-'))?;
    let start = start + skip;
    let tail = &text[at + 1..roof];
    let end = tail.find(|c: char| !is_domain(c)).unwrap_or(tail.len());
    let domain = tail[..end].trim_end_matches(['.', '-', '_']);
    if !is_plausible(domain) {
        return None;
    }
    let end = at + 1 + domain.len();
    let address = Address::parse(&text[start..end]).ok()?;
    Some(FoundAddress {
        address,
        start,
        end,
    })
}

/// A quoted local part: `"a b"@example.com`.
fn quoted_address(text: &str, floor: usize, at: usize, roof: usize) -> Option<FoundAddress> {
    let body = text[floor..at].strip_suffix('"')?;
    let start = floor + body.rfind('"')?;
    let tail = &text[at + 1..roof];
    let end = tail.find(|c: char| !is_domain(c)).unwrap_or(tail.len());
    let domain = tail[..end].trim_end_matches(['.', '-']);
    let end = at + 1 + domain.len();
    let address = Address::parse(&text[start..end]).ok()?;
    Some(FoundAddress {
        address,
        start,
        end,
    })
}

fn is_local(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-=?^_`.~".contains(c)
}

fn is_domain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '.' | '_')
}

/// True for a name with a dot whose last label is not a number, and for a bare host name.
fn is_plausible(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default();
    !domain.is_empty() && !last.is_empty() && !last.bytes().all(|b| b.is_ascii_digit())
}
