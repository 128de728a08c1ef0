//! Owns the grammar of SPF records (RFC 7208 sections 4.6, 5, 6, 12).
//!
//! Does not evaluate them.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::macros::DomainSpec;
use crate::mail::verdict::AuthResult;

/// A record with only well-formed terms.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpfRecord {
    pub(super) directives: Vec<SpfDirective>,
    pub(super) redirect: Option<DomainSpec>,
}

/// A mechanism, and the result if it matches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SpfDirective {
    pub(super) outcome: AuthResult,
    pub(super) mechanism: SpfMechanism,
}

/// A mechanism (RFC 7208 section 5). Without a domain-spec it applies to the current domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SpfMechanism {
    All,
    Include(DomainSpec),
    A(Option<DomainSpec>, PrefixLengths),
    Mx(Option<DomainSpec>, PrefixLengths),
    Ptr(Option<DomainSpec>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(DomainSpec),
}

/// The number of significant leading bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PrefixLengths {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

impl SpfRecord {
    /// True if a TXT record is an SPF record (RFC 7208 section 4.5).
    pub(super) fn is_spf_record(text: &[u8]) -> bool {
        let Some((version, rest)) = text.split_at_checked(VERSION.len()) else {
            return false;
        };
        version.eq_ignore_ascii_case(VERSION) && matches!(rest.first(), None | Some(b' '))
    }

    /// Parses a record for which [`SpfRecord::is_spf_record`] is true.
    ///
    /// # Errors
    /// The first term that breaks the grammar, which invalidates the whole record (section 4.6).
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let Ok(text) = str::from_utf8(text) else {
            return Err("the record is not ASCII".to_owned());
        };
        let mut record = Self {
            directives: Vec::new(),
            redirect: None,
        };
        let mut has_exp = false;
        let terms = text[VERSION.len()..].split(' ');
        for term in terms.filter(|term| !term.is_empty()) {
            let broken = || format!("bad term: {}", printable_term(term));
            match modifier(term) {
                Some(("redirect", value)) => {
                    let spec = DomainSpec::parse(value).ok_or_else(broken)?;
                    if record.redirect.replace(spec).is_some() {
                        return Err("redirect= occurs twice".to_owned());
                    }
                }
                Some(("exp", value)) => {
                    DomainSpec::parse(value).ok_or_else(broken)?;
                    if std::mem::replace(&mut has_exp, true) {
                        return Err("exp= occurs twice".to_owned());
                    }
                }
                Some((_, value)) => DomainSpec::check_macros(value).ok_or_else(broken)?,
                None => record
                    .directives
                    .push(SpfDirective::parse(term).ok_or_else(broken)?),
            }
        }
        Ok(record)
    }
}

/// The version with which every record begins.
const VERSION: &[u8] = b"v=spf1";

impl SpfDirective {
    fn parse(term: &str) -> Option<Self> {
        let (outcome, term) = match term.as_bytes().first()? {
            b'+' => (AuthResult::Pass, &term[1..]),
            b'-' => (AuthResult::Fail, &term[1..]),
            b'~' => (AuthResult::Softfail, &term[1..]),
            b'?' => (AuthResult::Neutral, &term[1..]),
            _ => (AuthResult::Pass, term),
        };
        let end = term.find([':', '/']).unwrap_or(term.len());
        let (name, rest) = term.split_at(end);
        let mechanism = match name.to_ascii_lowercase().as_str() {
            "all" if rest.is_empty() => SpfMechanism::All,
            "include" => SpfMechanism::Include(DomainSpec::parse(rest.strip_prefix(':')?)?),
            "exists" => SpfMechanism::Exists(DomainSpec::parse(rest.strip_prefix(':')?)?),
            "ptr" => SpfMechanism::Ptr(optional_spec(rest)?),
            "a" => {
                let (rest, prefix) = PrefixLengths::split_off(rest)?;
                SpfMechanism::A(optional_spec(rest)?, prefix)
            }
            "mx" => {
                let (rest, prefix) = PrefixLengths::split_off(rest)?;
                SpfMechanism::Mx(optional_spec(rest)?, prefix)
            }
            "ip4" => {
                let (ip, length) = network(rest.strip_prefix(':')?, 32)?;
                SpfMechanism::Ip4(ip.parse().ok()?, length)
            }
            "ip6" => {
                let (ip, length) = network(rest.strip_prefix(':')?, 128)?;
                SpfMechanism::Ip6(ip.parse().ok()?, length)
            }
            _ => return None,
        };
        Some(Self { outcome, mechanism })
    }
}

impl PrefixLengths {
    const WHOLE: Self = Self { v4: 32, v6: 128 };

    /// Splits a dual-cidr-length from the end (section 12); `None` if it is malformed.
    fn split_off(text: &str) -> Option<(&str, Self)> {
        let mut prefix = Self::WHOLE;
        let mut rest = text;
        if let Some((before, digits)) = split_digits(rest)
            && let Some(before) = before.strip_suffix("//")
        {
            prefix.v6 = bits(digits, 128)?;
            rest = before;
        }
        if let Some((before, digits)) = split_digits(rest)
            && let Some(before) = before.strip_suffix('/')
            && !before.ends_with('/')
        {
            prefix.v4 = bits(digits, 32)?;
            rest = before;
        }
        Some((rest, prefix))
    }
}

/// The digits at the end of a text that ends in digits.
fn split_digits(text: &str) -> Option<(&str, &str)> {
    let start = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    (start < text.len()).then(|| text.split_at(start))
}

/// Parses `ip[/bits]`.
fn network(text: &str, most: u8) -> Option<(&str, u8)> {
    match text.split_once('/') {
        Some((ip, digits)) => Some((ip, bits(digits, most)?)),
        None => Some((text, most)),
    }
}

/// Parses a prefix length: no sign, no leading zero (section 12).
fn bits(digits: &str, most: u8) -> Option<u8> {
    let is_canonical = digits == "0"
        || (!digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let bits: u8 = digits.parse().ok()?;
    (is_canonical && bits <= most).then_some(bits)
}

/// Parses `[":" domain-spec]`; the outer `None` is a syntax error.
fn optional_spec(rest: &str) -> Option<Option<DomainSpec>> {
    match rest.strip_prefix(':') {
        Some(spec) => Some(Some(DomainSpec::parse(spec)?)),
        None if rest.is_empty() => Some(None),
        None => None,
    }
}

/// The name and value if the term is a modifier; a known name is lower-cased (section 6).
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let known = ["redirect", "exp"];
    let known = known
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(name));
    is_name.then_some((known.unwrap_or(name), value))
}

/// An untrusted term in printable form.
fn printable_term(term: &str) -> String {
    const CHARS_MAX: usize = 60;
    term.chars()
        .take(CHARS_MAX)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_distinguished_from_other_texts() {
        for text in ["v=spf1", "V=SPF1 -all", "v=spf1 "] {
            assert!(SpfRecord::is_spf_record(text.as_bytes()), "{text}");
        }
        for text in ["v=spf10", "v=spf2.0/pra", "", "spf1", "v=spf1-all"] {
            assert!(!SpfRecord::is_spf_record(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn terms_are_read() {
        let record =
            SpfRecord::parse(b"v=spf1 +a/24//64  ~mx:b.example -ip4:192.0.2.0/24 ?all x=%{s}")
                .unwrap();
        let b = DomainSpec::parse("b.example").unwrap();
        let prefix = PrefixLengths { v4: 24, v6: 64 };
        let expected = [
            (AuthResult::Pass, SpfMechanism::A(None, prefix)),
            (
                AuthResult::Softfail,
                SpfMechanism::Mx(Some(b), PrefixLengths::WHOLE),
            ),
            (
                AuthResult::Fail,
                SpfMechanism::Ip4([192, 0, 2, 0].into(), 24),
            ),
            (AuthResult::Neutral, SpfMechanism::All),
        ];
        let expected = expected.map(|(outcome, mechanism)| SpfDirective { outcome, mechanism });
        assert_eq!(record.directives, expected);
        assert_eq!(record.redirect, None);
    }

    #[test]
    fn one_bad_term_invalidates_the_record() {
        for terms in [
            "all:x",
            "all/8",
            "include",
            "include:",
            "a:",
            "a/33",
            "a/032",
            "a//129",
            "a/24/64",
            "ip4:1.2.3",
            "ip4:1.2.3.4/",
            "ip4:1.2.3.4//32",
            "ip6:1.2.3.4",
            "exists",
            "ptr/24",
            "unknown",
            "moo:x.y",
            "redirect=a.b redirect=a.b",
            "exp=a.b exp=a.b",
            "redirect=",
            "a:b",
            "x=%{z}",
            "-",
            "include=a.b/24x all:",
            "a:%{d0}.x",
        ] {
            let text = format!("v=spf1 {terms}");
            assert!(SpfRecord::parse(text.as_bytes()).is_err(), "{terms}");
        }
        assert!(SpfRecord::parse(b"v=spf1 a:\xff.example").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = SpfRecord::parse(format!("v=spf1 {text}").as_bytes());
        }
    }
}
