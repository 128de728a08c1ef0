//! Owns envelope addresses: parsing, comparison and output.
//!
//! Does not read header fields (display names, groups, comments); the parsed view does.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The length of a local part in octets (RFC 5321 section 4.5.3.1.1) that Postern keeps to in the addresses
/// it makes.
pub const LOCAL_BYTES_MAX: usize = 64;
/// The length of a local part in octets that Postern accepts. RFC 5321 section 4.5.3.1 asks for more than
/// its minimum where possible, and products have sent reply addresses of 96 octets (v1 tokens) that people
/// answer for a year.
pub const LOCAL_BYTES_RECEIVED_MAX: usize = 128;
/// The length of a domain in octets (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

/// The longest beginning of `text` of at most `bytes_max` octets that does not end within an address: half
/// an address is not found by the redaction, and its local part may be a secret.
pub fn cut_between_addresses(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = text.floor_char_boundary(bytes_max);
    let longest = LOCAL_BYTES_RECEIVED_MAX + 1 + DOMAIN_BYTES_MAX;
    let from = text.floor_char_boundary(end.saturating_sub(longest));
    let last = text[from..end].rfind(|c: char| c.is_whitespace() || c == '<');
    &text[..last.map_or(from, |at| from + at)]
}

/// A mailbox of RFC 5321 section 4.1.2 (and RFC 6531 section 3.3 for UTF-8): `local@domain`.
///
/// The local part is kept unquoted and as it came, because only its host knows if case matters; the domain
/// is lower-cased. Two addresses are equal if their local parts are the same bytes and their domains the
/// same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: Domain,
}

impl Address {
    /// Reads `local@domain`, where the local part is a dot-string or a quoted string.
    ///
    /// # Errors
    /// Names the rule of the grammar (RFC 5321 section 4.1.2) or the bound that the text breaks.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, rest) = if text.starts_with('"') {
            quoted_local(text)?
        } else {
            let at = text.find('@').ok_or(AddressError::NoDomain)?;
            (dot_string(&text[..at])?, &text[at..])
        };
        let domain = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        if local.len() > LOCAL_BYTES_RECEIVED_MAX {
            return Err(AddressError::LocalTooLong);
        }
        Ok(Self {
            local,
            domain: Domain::parse(domain)?,
        })
    }

    /// The local part, unquoted, in its original case.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// True if an envelope with this address needs SMTPUTF8 (RFC 6531).
    pub fn is_utf8(&self) -> bool {
        !self.local.is_ascii() || !self.domain.0.is_ascii()
    }

    /// The form that all spellings of one person's address share: lower-cased, with the domain as A-labels.
    /// People are looked up and compared by this form; no mail is sent to it.
    pub fn folded(&self) -> String {
        format!("{}@{}", self.local.to_lowercase(), self.domain.ascii())
    }
}

impl fmt::Display for Address {
    /// Writes the address in the wire form of RFC 5321, with the local part quoted where necessary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            return write!(f, "{}@{}", self.local, self.domain);
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// A domain name, or an address literal in brackets, lower-cased.
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// Reads a domain or an address literal. Case is folded; nothing else is changed.
    ///
    /// # Errors
    /// Names the rule of the grammar (RFC 5321 section 4.1.2) or the bound that the text breaks.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        // Some letters grow when they are folded. The bounds apply to the folded form, because it is
        // written to disk and must be read back.
        let folded = text.to_lowercase();
        if folded.len() > DOMAIN_BYTES_MAX {
            return Err(AddressError::DomainTooLong);
        }
        if let Some(literal) = text.strip_prefix('[') {
            let inner = literal
                .strip_suffix(']')
                .ok_or(AddressError::DomainSyntax)?;
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-');
            if inner.is_empty() || !inner.chars().all(fits) {
                return Err(AddressError::DomainSyntax);
            }
            return Ok(Self(text.to_ascii_lowercase()));
        }
        // Host names have no underscore (RFC 1123 section 2.1), but some domains that send mail do.
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || !c.is_ascii();
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.chars().all(fits)
                && !l.chars().any(char::is_control)
                && !l.chars().any(char::is_whitespace)
        };
        if !folded.split('.').all(label) {
            return Err(AddressError::DomainSyntax);
        }
        Ok(Self(folded))
    }

    /// The domain, lower-cased.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domain in A-labels (RFC 5890), or unchanged if it has no such form.
    pub fn ascii(&self) -> String {
        if self.0.is_ascii() {
            return self.0.clone();
        }
        idna::domain_to_ascii(&self.0).unwrap_or_else(|_| self.0.clone())
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.ascii() == other.ascii()
    }
}

impl std::hash::Hash for Domain {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ascii().hash(state);
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Domain {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

/// An error in the text of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// The domain has more than [`DOMAIN_BYTES_MAX`] octets.
    #[error("domain longer than {DOMAIN_BYTES_MAX} octets")]
    DomainTooLong,
    /// The domain is neither dotted labels nor an address literal.
    #[error("domain is not of the form label.label or [literal]")]
    DomainSyntax,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("local part is neither a dot-string nor a quoted string")]
    LocalSyntax,
    /// The local part has more than [`LOCAL_BYTES_RECEIVED_MAX`] octets.
    #[error("local part longer than {LOCAL_BYTES_RECEIVED_MAX} octets")]
    LocalTooLong,
    /// There is no `@domain`.
    #[error("no @domain")]
    NoDomain,
}

fn quoted_local(text: &str) -> Result<(String, &str), AddressError> {
    let mut local = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '"' if local.is_empty() => return Err(AddressError::LocalSyntax),
            '"' => return Ok((local, &text[at + 1..])),
            '\\' => chars.next().ok_or(AddressError::LocalSyntax)?.1,
            other => other,
        };
        if c.is_control() || local.len() > LOCAL_BYTES_RECEIVED_MAX {
            return Err(AddressError::LocalSyntax);
        }
        local.push(c);
    }
    Err(AddressError::LocalSyntax)
}

fn dot_string(text: &str) -> Result<String, AddressError> {
    if text.len() > LOCAL_BYTES_RECEIVED_MAX {
        return Err(AddressError::LocalTooLong);
    }
    if is_dot_string(text) {
        Ok(text.to_owned())
    } else {
        Err(AddressError::LocalSyntax)
    }
}

fn is_dot_string(text: &str) -> bool {
    let atext = |c: char| {
        c.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~".contains(c)
            || (!c.is_ascii() && !c.is_control() && !c.is_whitespace())
    };
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(atext))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    proptest! {
        #[test]
        fn any_parsed_value_parses_back(text in r#"("[ -~Ⱥİ]{1,9}"|[a-zKȺİß.+]{1,9})@[a-zA-ZKȺİΣß._-]{1,40}"#) {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }

    #[test]
    fn a_cut_does_not_end_within_an_address() {
        for (text, wanted) in [
            ("no <a@b.example>", "no <a@b.example>"),
            ("not this: <a@b.example>", "not this: "),
            ("not this one a@b.example", "not this one"),
            ("a+word@b.example.example", ""),
            ("", ""),
        ] {
            assert_eq!(cut_between_addresses(text, 16), wanted);
        }
        // A word longer than any address is not one, but its end may be an address.
        let long = "é".repeat(600);
        assert_eq!(cut_between_addresses(&long, 1_001).len(), 1_000 - 384);
    }

    #[test]
    fn what_is_read_is_read_back() {
        // These letters have two octets, and three in lower case: an address that fits must still fit once
        // it is folded.
        for (letter, folded) in [('Ⱥ', 'ⱥ'), ('Ⱦ', 'ⱦ')] {
            let domain = |count: usize| format!("a@{}.example", letter.to_string().repeat(count));
            let address = Address::parse(&domain(21)).unwrap();
            assert_eq!(address.domain().as_str().chars().next(), Some(folded));
            let kept = serde_json::to_string(&address).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&kept).unwrap(), address);
            for count in [22, 31] {
                let error = Address::parse(&domain(count));
                assert_eq!(error, Err(AddressError::DomainSyntax), "{count}");
            }
        }
        let long = format!("a@{}", vec!["Ⱥ".repeat(21); 5].join("."));
        assert_eq!(Address::parse(&long), Err(AddressError::DomainTooLong));
    }

    #[test]
    fn addresses_print_as_they_came() {
        for text in [
            "ann@example.com",
            "reply+x-y_z@inbox.example.com",
            "\"a b\"@example.com",
            "\"a@elsewhere\"@us.example",
            "\"a\\\"b\\\\c\"@example.com",
            "ann@[127.0.0.1]",
            "ann@[ipv6:::1]",
            "jörg@exämple.de",
            "$(id)@example.com".replace(['(', ')'], "").as_str(),
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn a_needless_quote_is_dropped() {
        assert_eq!(
            parsed("\"reply+x\"@us.example"),
            parsed("reply+x@US.example")
        );
    }

    #[test]
    fn domains_compare_as_names() {
        assert_eq!(parsed("a@EXAMPLE.com"), parsed("a@example.COM"));
        assert_eq!(
            parsed("a@bücher.example"),
            parsed("a@xn--bcher-kva.example")
        );
        assert_ne!(parsed("A@example.com"), parsed("a@example.com"));
        assert_eq!(parsed("A@Example.com").folded(), "a@example.com");
    }

    #[test]
    fn long_local_parts_are_received() {
        let long = "a".repeat(LOCAL_BYTES_RECEIVED_MAX);
        assert_eq!(parsed(&format!("{long}@example.com")).local(), long);
        assert_eq!(parsed(&format!("\"{long}\"@example.com")).local(), long);
    }

    #[test]
    fn what_breaks_the_grammar_is_named() {
        let long = format!("{}@example.com", "a".repeat(129));
        let wide = format!("a@{}", "a".repeat(256));
        for (text, error) in [
            ("ann", AddressError::NoDomain),
            ("\"ann\"", AddressError::NoDomain),
            ("@example.com", AddressError::LocalSyntax),
            ("a b@example.com", AddressError::LocalSyntax),
            ("a..b@example.com", AddressError::LocalSyntax),
            ("\"a@example.com", AddressError::LocalSyntax),
            ("\"a\r\nb\"@example.com", AddressError::LocalSyntax),
            ("a@us@elsewhere", AddressError::DomainSyntax),
            ("a@us.", AddressError::DomainSyntax),
            ("a@", AddressError::DomainSyntax),
            ("a@<script>", AddressError::DomainSyntax),
            ("a@[127.0.0.1", AddressError::DomainSyntax),
            (long.as_str(), AddressError::LocalTooLong),
            (wide.as_str(), AddressError::DomainTooLong),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }
}
