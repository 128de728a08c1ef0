//! Owns the syntax of sizes, durations and listening addresses in the configuration.
//!
//! Does not know any key: each function parses one value or describes the expected form.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Parses a number of octets, for example `25MiB`.
///
/// # Errors
/// A description of the expected form.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let (number, unit) = split_number(text);
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim_start());
    let (Ok(number), Some((_, factor))) = (number.parse::<u64>(), factor) else {
        return Err("not a size: write a whole number with B, KiB, MiB, GiB or TiB".to_owned());
    };
    number
        .checked_mul(*factor)
        .ok_or_else(|| "size too large".to_owned())
}

/// The shortest text that [`size`] parses to this value.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Parses a duration, for example `90s`, `5m`, `1h30m` or `365d`.
///
/// # Errors
/// A description of the expected form.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "not a span of time: write a whole number with ms, s, m, h or d";
    let mut rest = text;
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let unit = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let millis = match &tail[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return Err(FORM.to_owned()),
        };
        let number: u64 = number.parse().map_err(|_| FORM.to_owned())?;
        sum = number
            .checked_mul(millis)
            .and_then(|part| sum.checked_add(part))
            .ok_or_else(|| "span of time too long".to_owned())?;
        rest = &tail[unit..];
    }
    if text.is_empty() {
        return Err(FORM.to_owned());
    }
    Ok(Duration::from_millis(sum))
}

/// The shortest text with one unit that [`duration`] parses to this value.
pub(super) fn show_duration(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    for (unit, size) in [
        ("d", 24 * 60 * 60 * 1000),
        ("h", 60 * 60 * 1000),
        ("m", 60 * 1000),
        ("s", 1000),
    ] {
        if millis != 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// Parses the address of a server: an IP address and a port that is not 0.
///
/// # Errors
/// A description of the missing part.
pub(super) fn server(text: &str) -> Result<SocketAddr, String> {
    match listen(text)? {
        address if address.port() == 0 => Err("port 0 is not allowed".to_owned()),
        address => Ok(address),
    }
}

/// Parses a listening address: an IP address and a port, for example `127.0.0.1:25` or `[::1]:25`. With
/// port 0 the system chooses one.
///
/// # Errors
/// A description of the missing part.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    Err(if text.parse::<IpAddr>().is_ok() {
        "address without a port"
    } else if digits(text.trim_start_matches(':')) {
        "port without an address: write 127.0.0.1:25, 0.0.0.0:25 or [::]:25"
    } else if text.rsplit_once(':').is_some_and(|(_, port)| digits(port)) {
        "not an IP address with a port"
    } else {
        "not an address with a port"
    }
    .to_owned())
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("25MiB"), Ok(25 << 20));
        assert_eq!(size("0B"), Ok(0));
        assert_eq!(size("7 KiB"), Ok(7 << 10));
        for bad in [
            "",
            "25",
            "MiB",
            "-1MiB",
            "25MB",
            "2.5MiB",
            "25mib",
            "25MiB ",
            "99999999999TiB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("365d"), Ok(Duration::from_secs(365 * 86_400)));
        assert_eq!(duration("300000ms"), Ok(Duration::from_secs(300)));
        for bad in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "1.5h",
            "5m3",
            "5w",
            "99999999999999999999s",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_need_a_port_and_ports_an_address() {
        assert!(listen("127.0.0.1:25").is_ok());
        assert!(listen("[::]:25").is_ok());
        for (bad, why) in [
            ("25", "port without an address"),
            (":25", "port without an address"),
            ("127.0.0.1", "address without a port"),
            ("::1", "address without a port"),
            ("localhost:25", "not an IP address"),
            ("127.0.0.1:65536", "not an IP address"),
            ("", "not an address"),
        ] {
            let error = listen(bad).unwrap_err();
            assert!(error.starts_with(why), "{bad}: {error}");
        }
        assert_eq!(listen("127.0.0.1:0").unwrap().port(), 0);
        assert_eq!(server("127.0.0.1:0").unwrap_err(), "port 0 is not allowed");
        assert!(server("127.0.0.1:53").is_ok());
    }

    proptest! {
        #[test]
        fn shown_values_parse_back(n: u64, text in "\\PC{0,12}") {
            prop_assert_eq!(size(&show_size(n)), Ok(n));
            let span = Duration::from_millis(n);
            prop_assert_eq!(duration(&show_duration(span)), Ok(span));
            let _ = (size(&text), duration(&text), listen(&text));
        }
    }
}
