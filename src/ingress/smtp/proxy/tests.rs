use proptest::prelude::*;

use super::*;

fn at(text: &str) -> ProxiedClient {
    ProxiedClient::Address(text.parse().unwrap())
}

fn v2(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = V2_START.to_vec();
    bytes.extend([kind, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

const V4_BODY: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x34, 0, 25];

#[test]
fn version_1_names_the_client() {
    for (line, client) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.1 4660 25\r\n",
            at("192.0.2.1:4660"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 65535 25\r\n",
            at("[2001:db8::1]:65535"),
        ),
        ("PROXY TCP4 127.0.0.1 127.0.0.1 0 25\r\n", at("127.0.0.1:0")),
        ("PROXY UNKNOWN\r\n", ProxiedClient::Unknown),
        (
            "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
            ProxiedClient::Unknown,
        ),
        ("PROXY UNKNOWN \r\n", ProxiedClient::Unknown),
    ] {
        let bytes = format!("{line}EHLO x\r\n");
        assert_eq!(
            parse(bytes.as_bytes()),
            Ok(Some((client, line.len()))),
            "{line}"
        );
    }
}

#[test]
fn version_1_defects() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.1 4660\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 4660 25 1\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.1 4660 25\r\n",
        "PROXY TCP4 ::1 ::1 4660 25\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.1 4660 25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 -1 25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 +1 25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 01 25\r\n",
        "PROXY TCP4 192.0.2.1 host 1 25\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.1 1 25\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.1 1 25\r\n",
        "PROXY TCP4\r\n",
        "PROXY \r\n",
        "proxy UNKNOWN\r\n",
        "EHLO x\r\n",
        "\r\nEHLO x\r\n",
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn version_1_is_107_bytes_at_most() {
    let line = |bytes: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(bytes - 16));
    assert_eq!(
        parse(line(107).as_bytes()),
        Ok(Some((ProxiedClient::Unknown, 107)))
    );
    assert_eq!(parse(line(108).as_bytes()), Err(ProxyHeaderError::Length));
    assert_eq!(parse(&line(107).as_bytes()[..106]), Ok(None));
}

#[test]
fn version_2_names_the_client() {
    let mut v6 = [0; 36];
    v6[..2].copy_from_slice(&[0x20, 0x01]);
    v6[15] = 1;
    v6[33] = 9;
    let mut with_extension = V4_BODY.to_vec();
    with_extension.extend([0x04, 0, 2, 0, 0]);
    for (bytes, client) in [
        (v2(0x21, 0x11, &V4_BODY), at("192.0.2.1:4660")),
        (v2(0x21, 0x11, &with_extension), at("192.0.2.1:4660")),
        (v2(0x21, 0x21, &v6), at("[2001::1]:9")),
        (v2(0x20, 0x00, &[]), ProxiedClient::Unknown),
        (v2(0x20, 0x11, &V4_BODY), ProxiedClient::Unknown),
        (v2(0x20, 0xff, &[1, 2]), ProxiedClient::Unknown),
        (v2(0x21, 0x00, &[]), ProxiedClient::Unknown),
        (v2(0x21, 0x31, &[0; 216]), ProxiedClient::Unknown),
    ] {
        let whole = bytes.len();
        let mut more = bytes.clone();
        more.extend(b"EHLO x\r\n");
        assert_eq!(parse(&more), Ok(Some((client, whole))));
        assert_eq!(parse(&bytes[..whole - 1]), Ok(None));
    }
}

#[test]
fn version_2_defects() {
    let mut overrun = V4_BODY.to_vec();
    overrun.extend([0x04, 0xff, 0xff, 0]);
    let mut cut = V4_BODY.to_vec();
    cut.extend([0x04, 0]);
    for (bytes, error) in [
        (v2(0x31, 0x11, &V4_BODY), ProxyHeaderError::Kind),
        (v2(0x22, 0x11, &V4_BODY), ProxyHeaderError::Kind),
        (v2(0x21, 0x12, &V4_BODY), ProxyHeaderError::Kind),
        (v2(0x21, 0x41, &V4_BODY), ProxyHeaderError::Kind),
        (v2(0x21, 0x11, &V4_BODY[..11]), ProxyHeaderError::Length),
        (v2(0x21, 0x21, &V4_BODY), ProxyHeaderError::Length),
        (v2(0x21, 0x31, &[0; 215]), ProxyHeaderError::Length),
        (v2(0x21, 0x11, &overrun), ProxyHeaderError::Length),
        (v2(0x21, 0x11, &cut), ProxyHeaderError::Length),
        (v2(0x21, 0x00, &vec![0; 65_535]), ProxyHeaderError::Length),
    ] {
        assert_eq!(parse(&bytes), Err(error));
    }
    let mut signature = v2(0x21, 0x11, &V4_BODY);
    signature[4] = 1;
    assert_eq!(parse(&signature), Err(ProxyHeaderError::Signature));
}

proptest! {
    #[test]
    fn any_bytes_are_a_header_or_an_error(
        start in prop_oneof![
            Just(Vec::new()),
            Just(V1_START.to_vec()),
            Just(V2_START.to_vec()),
            Just([V2_START.as_slice(), &[0x21, 0x11, 0]].concat()),
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, rest].concat();
        match parse(&bytes) {
            Ok(Some((_, taken))) => prop_assert!(taken <= bytes.len()),
            Ok(None) => prop_assert!(bytes.len() < HEADER_BYTES_MAX),
            Err(_) => {}
        }
    }

    #[test]
    fn a_header_is_the_same_however_it_is_cut(at in 0_usize..28) {
        let bytes = v2(0x21, 0x11, &V4_BODY);
        prop_assert_eq!(parse(&bytes[..at]), Ok(None));
    }
}
