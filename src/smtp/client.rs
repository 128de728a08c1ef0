//! Owns the attributes of XCLIENT and XFORWARD, by which a relay describes its client, as Postfix defines
//! them.
//!
//! Does not know which peers may send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::response::Refusal;

/// The supported attributes.
pub(super) const ATTRIBUTE_NAMES: &str = "NAME ADDR HELO";
/// Octets of a value after xtext decoding: the length of a domain.
const VALUE_BYTES_MAX: usize = 255;

/// The client behind a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayedClient {
    /// The address; `None` if the relay does not know it.
    pub ip: Option<IpAddr>,
    /// The name given in EHLO or HELO, bounded as [`Transaction::helo`] is.
    ///
    /// [`Transaction::helo`]: super::transaction::Transaction::helo
    pub helo: Option<String>,
    /// True if the client receives our responses, as it does through a proxy that sends XCLIENT. With
    /// XFORWARD the relay receives them.
    pub receives_responses: bool,
}

impl RelayedClient {
    /// Applies the attributes of one command: `NAME=value …`, at least one, each at most once. A malformed
    /// list changes nothing.
    pub(super) fn apply(&mut self, attributes: &str) -> Result<(), Refusal> {
        let mut taken = self.clone();
        let mut seen: Vec<String> = Vec::new();
        for attribute in attributes.split(' ').filter(|text| !text.is_empty()) {
            let (name, value) = attribute
                .split_once('=')
                .ok_or(Refusal::ArgumentMalformed)?;
            let name = name.to_ascii_uppercase();
            let value = value_of(value).ok_or(Refusal::ArgumentMalformed)?;
            match name.as_str() {
                "ADDR" => taken.ip = value.as_deref().map(address).transpose()?,
                "HELO" => taken.helo = value,
                // The value is not needed: names are looked up by the address.
                "NAME" => {}
                _ => return Err(Refusal::ArgumentMalformed),
            }
            if seen.contains(&name) {
                return Err(Refusal::ArgumentMalformed);
            }
            seen.push(name);
        }
        if seen.is_empty() {
            return Err(Refusal::ArgumentMalformed);
        }
        *self = taken;
        Ok(())
    }
}

/// Decodes an xtext value (RFC 3461 section 4): `Some(None)` if the relay does not know it, `None` if it is
/// malformed.
#[expect(
    clippy::option_option,
    reason = "a value that is unknown is not one that is wrong"
)]
fn value_of(text: &str) -> Option<Option<String>> {
    if ["[UNAVAILABLE]", "[TEMPUNAVAIL]"]
        .iter()
        .any(|unknown| text.eq_ignore_ascii_case(unknown))
    {
        return Some(None);
    }
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => {
                let digits = [rest.next()?, rest.next()?].map(char::from);
                let [high, low] = digits.map(|digit| digit.to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            b'!'..=b'~' if octet != b'=' => octet,
            _ => return None,
        });
    }
    let value = String::from_utf8(octets).ok()?;
    let fits = (1..=VALUE_BYTES_MAX).contains(&value.len()) && !value.chars().any(char::is_control);
    fits.then_some(Some(value))
}

/// Parses `192.0.2.1` or `IPv6:2001:db8::1`.
fn address(text: &str) -> Result<IpAddr, Refusal> {
    const MARK: &str = "IPv6:";
    let ip = match text.split_at_checked(MARK.len()) {
        Some((mark, v6)) if mark.eq_ignore_ascii_case(MARK) => {
            v6.parse::<Ipv6Addr>().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    ip.map(|ip| ip.to_canonical())
        .map_err(|_| Refusal::ArgumentMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_or_refused_whole() {
        let told = |text: &str| {
            let mut client = RelayedClient::default();
            client.apply(text).map(|()| (client.ip, client.helo))
        };
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        let helo = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("ADDR=192.0.2.1", (ip("192.0.2.1"), None)),
            ("addr=IPV6:2001:db8::1", (ip("2001:db8::1"), None)),
            ("ADDR=IPv6:::ffff:192.0.2.1", (ip("192.0.2.1"), None)),
            ("ADDR=[UNAVAILABLE]  HELO=[tempunavail]", (None, None)),
            (
                "NAME=mx+2Epeer.example HELO=a+2Bb+3Dc",
                (None, helo("a+b=c")),
            ),
        ] {
            assert_eq!(told(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "ADDR",
            "ADDR=",
            "ADDR=2001:db8::1",
            "ADDR=IPv6:192.0.2.1",
            "ADDR=192.0.2",
            "ADDR=192.0.2.1+0D+0A",
            "HELO=a+0D+0AMAIL",
            "HELO=a+00",
            "HELO=a+2",
            "HELO=a+zz",
            "HELO=a=b",
            "HELO=+FF",
            "HELO=é",
            "HELO=a HELO=b",
            "PORT=25",
            "LOGIN=root",
            "HELO=a ADDR=x",
        ] {
            assert_eq!(told(text), Err(Refusal::ArgumentMalformed), "{text}");
        }
        assert!(told(&format!("HELO={}", "a".repeat(VALUE_BYTES_MAX + 1))).is_err());
    }

    #[test]
    fn a_list_that_is_wrong_changes_nothing() {
        let mut client = RelayedClient::default();
        client.apply("ADDR=192.0.2.1").unwrap();
        assert!(client.apply("ADDR=192.0.2.2 HELO").is_err());
        client.apply("HELO=peer.example").unwrap();
        assert_eq!(client.ip, "192.0.2.1".parse().ok());
        assert_eq!(client.helo.as_deref(), Some("peer.example"));
    }
}
