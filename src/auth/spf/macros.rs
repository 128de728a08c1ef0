//! Owns domain-specs and their macros (RFC 7208 section 7).
//!
//! Makes no DNS query: the caller supplies the validated name for `%{p}`.

use std::net::IpAddr;

use crate::auth::dns::NAME_BYTES_MAX;

/// A domain name with macros.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DomainSpec(Vec<SpecPiece>);

#[derive(Debug, PartialEq, Eq)]
enum SpecPiece {
    Literal(String),
    Macro(SpfMacro),
}

#[derive(Debug, PartialEq, Eq)]
struct SpfMacro {
    /// The letter, lower-cased.
    letter: char,
    /// True if the letter was upper-case: the value is escaped.
    is_escaped: bool,
    /// The number of labels, from the right, that are kept.
    keep: Option<usize>,
    is_reversed: bool,
    delimiters: String,
}

/// The values of the macros.
#[derive(Clone, Copy, Debug)]
pub(super) struct MacroValues<'a> {
    pub(super) ip: IpAddr,
    pub(super) local: &'a str,
    /// The sender's domain.
    pub(super) sender_domain: &'a str,
    /// The domain whose record is evaluated.
    pub(super) domain: &'a str,
    pub(super) helo: &'a str,
    /// The value of `%{p}`.
    pub(super) validated: &'a str,
}

impl DomainSpec {
    /// Parses a domain-spec (section 12): a macro-string that ends in a top label or a macro.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let pieces = pieces(text)?;
        let is_ended = match pieces.last()? {
            SpecPiece::Macro(_) => true,
            // `%%`, `%_` and `%-` are macros too, although they produce plain text.
            SpecPiece::Literal(_) if ["%%", "%_", "%-"].iter().any(|end| text.ends_with(end)) => {
                true
            }
            SpecPiece::Literal(literal) => ends_in_top_label(literal),
        };
        is_ended.then_some(Self(pieces))
    }

    /// Checks only the syntax of a macro-string.
    pub(super) fn check_macros(text: &str) -> Option<()> {
        pieces(text).map(drop)
    }

    /// True if `%{p}` is in it, which needs a DNS query.
    pub(super) fn needs_validated(&self) -> bool {
        let is_p =
            |piece: &SpecPiece| matches!(piece, SpecPiece::Macro(SpfMacro { letter: 'p', .. }));
        self.0.iter().any(is_p)
    }

    /// The name with its macros replaced, cut from the left to the maximum length of a name (section 7.3).
    pub(super) fn expand(&self, values: &MacroValues<'_>) -> String {
        let mut name = String::new();
        for piece in &self.0 {
            match piece {
                SpecPiece::Literal(text) => name.push_str(text),
                SpecPiece::Macro(of) => of.expand_into(values, &mut name),
            }
        }
        let mut rest = name.strip_suffix('.').unwrap_or(&name);
        while rest.len() > NAME_BYTES_MAX {
            match rest.split_once('.') {
                Some((_, shorter)) => rest = shorter,
                None => break,
            }
        }
        rest.to_owned()
    }
}

impl SpfMacro {
    /// Parses the text between `%{` and `}`.
    fn parse(text: &str) -> Option<Self> {
        let letter = text.chars().next()?;
        let rest = &text[letter.len_utf8()..];
        // `c`, `r` and `t` are for explanations, which are not supported.
        if !"slodiphv".contains(letter.to_ascii_lowercase()) {
            return None;
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, rest) = rest.split_at(digits);
        let keep = match digits {
            "" => None,
            // A number above any count of labels keeps all of them.
            digits => Some(digits.parse().unwrap_or(usize::MAX)).filter(|&keep| keep > 0),
        };
        if keep.is_none() && !digits.is_empty() {
            return None;
        }
        let reversed = rest.strip_prefix(['r', 'R']);
        let delimiters = reversed.unwrap_or(rest);
        let is_delimiter = |c: char| ".-+,/_=".contains(c);
        delimiters.chars().all(is_delimiter).then(|| Self {
            letter: letter.to_ascii_lowercase(),
            is_escaped: letter.is_ascii_uppercase(),
            keep,
            is_reversed: reversed.is_some(),
            delimiters: if delimiters.is_empty() {
                "."
            } else {
                delimiters
            }
            .to_owned(),
        })
    }

    fn expand_into(&self, values: &MacroValues<'_>, out: &mut String) {
        let value = match self.letter {
            's' => format!("{}@{}", values.local, values.sender_domain),
            'l' => values.local.to_owned(),
            'o' => values.sender_domain.to_owned(),
            'd' => values.domain.to_owned(),
            'i' => dotted(values.ip),
            'p' => values.validated.to_owned(),
            'h' => values.helo.to_owned(),
            _ => match values.ip {
                IpAddr::V4(_) => "in-addr".to_owned(),
                IpAddr::V6(_) => "ip6".to_owned(),
            },
        };
        let mut labels: Vec<&str> = value.split(|c| self.delimiters.contains(c)).collect();
        if self.is_reversed {
            labels.reverse();
        }
        let skip = labels.len().saturating_sub(self.keep.unwrap_or(usize::MAX));
        let value = labels[skip..].join(".");
        if !self.is_escaped {
            out.push_str(&value);
            return;
        }
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(byte.into());
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
}

/// The number of macros. A name has at most as many labels.
const PIECES_MAX: usize = 128;

fn pieces(text: &str) -> Option<Vec<SpecPiece>> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c != '%' {
            if !c.is_ascii_graphic() {
                return None;
            }
            literal.push(c);
            rest = &rest[1..];
            continue;
        }
        match rest.as_bytes().get(1)? {
            b'%' => literal.push('%'),
            b'_' => literal.push(' '),
            b'-' => literal.push_str("%20"),
            b'{' => {
                let (inner, behind) = rest[2..].split_once('}')?;
                if !literal.is_empty() {
                    pieces.push(SpecPiece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(SpecPiece::Macro(SpfMacro::parse(inner)?));
                rest = behind;
                continue;
            }
            _ => return None,
        }
        rest = &rest[2..];
    }
    if !literal.is_empty() {
        pieces.push(SpecPiece::Literal(literal));
    }
    (pieces.len() <= PIECES_MAX).then_some(pieces)
}

/// True if the text ends in `"." toplabel ["."]` (section 12): a top label has a letter or an inner hyphen.
fn ends_in_top_label(literal: &str) -> bool {
    let literal = literal.strip_suffix('.').unwrap_or(literal);
    let Some((_, label)) = literal.rsplit_once('.') else {
        return false;
    };
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !label.is_empty()
        && label.chars().all(is_inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !label.chars().all(|c| c.is_ascii_digit())
}

/// The value of `%{i}`: IPv6 as dotted nibbles (section 7.3).
fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let nibbles: Vec<String> = ip
                .octets()
                .iter()
                .flat_map(|octet| [octet >> 4, octet & 15])
                .map(|nibble| format!("{nibble:x}"))
                .collect();
            nibbles.join(".")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: MacroValues<'static> = MacroValues {
        ip: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3)),
        local: "strong-bad",
        sender_domain: "email.example.com",
        domain: "email.example.com",
        helo: "mx.example.org",
        validated: "mx.example.org",
    };

    /// The examples of RFC 7208 section 7.4.
    #[test]
    fn the_rfcs_examples_hold() {
        for (spec, name) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            (
                "%{ir}.%{v}._spf.%{d2}",
                "3.2.0.192.in-addr._spf.example.com",
            ),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            (
                "%{d2}.trusted-domains.example.net",
                "example.com.trusted-domains.example.net",
            ),
        ] {
            assert_eq!(DomainSpec::parse(spec).unwrap().expand(&VALUES), name);
        }
        let ip = "2001:db8::cb01".parse().unwrap();
        let spec = DomainSpec::parse("%{ir}.%{v}.x").unwrap();
        assert_eq!(
            spec.expand(&MacroValues { ip, ..VALUES }),
            "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.x"
        );
    }

    #[test]
    fn a_hostile_local_part_stays_in_its_place() {
        let values = MacroValues {
            local: "a..b/c%{d} é\0",
            ..VALUES
        };
        let spec = DomainSpec::parse("%{L}.x.example").unwrap();
        assert_eq!(
            spec.expand(&values),
            "a..b%2Fc%25%7Bd%7D%20%C3%A9%00.x.example"
        );
    }

    proptest! {
        #[test]
        fn expansion_is_bounded(
            spec in "(%\\{[slodiphv][0-9]{0,2}r?[-.+]{0,2}\\}|[a-z.]{1,20}){1,8}",
            local in "\\PC{0,128}",
        ) {
            if let Some(spec) = DomainSpec::parse(&spec) {
                let name = spec.expand(&MacroValues { local: &local, ..VALUES });
                prop_assert!(name.len() <= NAME_BYTES_MAX || !name.contains('.'));
            }
        }
    }
}
