//! Owns the parsing of the PROXY protocol, versions 1 and 2: the client's address, as a proxy in front of
//! us names it (haproxy's `proxy-protocol.txt`, 2.1 and 2.2).
//!
//! Does not read a socket, and does not decide whether to trust the address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// The maximum length of a header in bytes. The fixed part and the addresses of version 2 take 232 bytes at
/// most; the rest is for extensions (TLVs).
pub(super) const HEADER_BYTES_MAX: usize = 2_048;

/// The maximum length of version 1 in bytes, line end included.
const V1_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;

/// The client in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxiedClient {
    /// The proxy connects for a client at this address.
    Address(SocketAddr),
    /// The proxy connects for itself, or does not know the client: the address of the socket counts.
    Unknown,
}

/// Parses a header at the start of `bytes`, and returns its length; `None` if it is incomplete.
///
/// # Errors
/// The bytes are not the beginning of a header.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ProxiedClient, usize)>, ProxyHeaderError> {
    let begins = |start: &[u8]| {
        let both = bytes.len().min(start.len());
        bytes[..both] == start[..both]
    };
    if begins(V2_START) {
        return parse_v2(bytes);
    }
    if begins(V1_START) {
        return parse_v1(bytes);
    }
    Err(ProxyHeaderError::Signature)
}

/// The error in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum ProxyHeaderError {
    /// The addresses do not have the form of their family.
    #[error("addresses malformed")]
    Addresses,
    /// The version, command, family or protocol is invalid.
    #[error("unknown version, command or family")]
    Kind,
    /// The header is too long, or a part is longer than the whole.
    #[error("length beyond bounds")]
    Length,
    /// The bytes are the beginning of neither version.
    #[error("no signature")]
    Signature,
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxiedClient, usize)>, ProxyHeaderError> {
    let within = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        if bytes.len() >= V1_BYTES_MAX {
            return Err(ProxyHeaderError::Length);
        }
        return Ok(None);
    };
    let line =
        str::from_utf8(&within[V1_START.len()..end]).map_err(|_| ProxyHeaderError::Addresses)?;
    let client = match line.split_once(' ') {
        Some(("TCP4", rest)) => v1_address::<Ipv4Addr>(rest)?,
        Some(("TCP6", rest)) => v1_address::<Ipv6Addr>(rest)?,
        // The text after UNKNOWN must be ignored.
        Some(("UNKNOWN", _)) => ProxiedClient::Unknown,
        None if line == "UNKNOWN" => ProxiedClient::Unknown,
        _ => return Err(ProxyHeaderError::Kind),
    };
    Ok(Some((client, end + 2)))
}

fn v1_address<A: std::str::FromStr + Into<IpAddr>>(
    rest: &str,
) -> Result<ProxiedClient, ProxyHeaderError> {
    let fields: Vec<&str> = rest.split(' ').collect();
    let [source, target, source_port, target_port] = fields[..] else {
        return Err(ProxyHeaderError::Addresses);
    };
    let ip = |text: &str| text.parse::<A>().map_err(|_| ProxyHeaderError::Addresses);
    let port = |text: &str| {
        let plain = text == "0" || (!text.starts_with(['0', '+']) && text.len() <= 5);
        let number = text.parse::<u16>().ok().filter(|_| plain);
        number.ok_or(ProxyHeaderError::Addresses)
    };
    ip(target)?;
    port(target_port)?;
    let address = SocketAddr::new(ip(source)?.into(), port(source_port)?);
    Ok(ProxiedClient::Address(address))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxiedClient, usize)>, ProxyHeaderError> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let whole = V2_FIXED_BYTES + length;
    if whole > HEADER_BYTES_MAX {
        return Err(ProxyHeaderError::Length);
    }
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyHeaderError::Kind),
    };
    let Some(body) = bytes.get(V2_FIXED_BYTES..whole) else {
        return Ok(None);
    };
    if local {
        // Family and addresses of a LOCAL header must be ignored (2.2).
        return Ok(Some((ProxiedClient::Unknown, whole)));
    }
    let (client, extensions) = match fixed[13] {
        // AF_UNSPEC and local sockets have no address.
        0x00 => (ProxiedClient::Unknown, body),
        0x31 | 0x32 => {
            let rest = body.get(216..).ok_or(ProxyHeaderError::Length)?;
            (ProxiedClient::Unknown, rest)
        }
        0x11 => {
            let (told, rest) = body
                .split_first_chunk::<12>()
                .ok_or(ProxyHeaderError::Length)?;
            let ip = Ipv4Addr::new(told[0], told[1], told[2], told[3]);
            let port = u16::from_be_bytes([told[8], told[9]]);
            (
                ProxiedClient::Address(SocketAddr::new(ip.into(), port)),
                rest,
            )
        }
        0x21 => {
            let (told, rest) = body
                .split_first_chunk::<36>()
                .ok_or(ProxyHeaderError::Length)?;
            let mut ip = [0; 16];
            ip.copy_from_slice(&told[..16]);
            let port = u16::from_be_bytes([told[32], told[33]]);
            (
                ProxiedClient::Address(SocketAddr::new(Ipv6Addr::from(ip).into(), port)),
                rest,
            )
        }
        // Datagrams and undefined protocols.
        _ => return Err(ProxyHeaderError::Kind),
    };
    check_extensions(extensions)?;
    Ok(Some((client, whole)))
}

/// Checks that type, length and value of each extension are within the header. Their values are not used.
fn check_extensions(mut rest: &[u8]) -> Result<(), ProxyHeaderError> {
    while !rest.is_empty() {
        let (head, after) = rest
            .split_first_chunk::<3>()
            .ok_or(ProxyHeaderError::Length)?;
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        rest = after.get(length..).ok_or(ProxyHeaderError::Length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
