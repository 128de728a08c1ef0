//! FETCH responses of any form: each attribute keeps its value, whatever is beside it.

use bytes::Bytes;
use proptest::prelude::*;

use super::response::{FetchData, ImapResponse, Untagged, parse};
use super::syntax;
use super::transport::RawResponse;

/// An attribute in wire form, with its literals, and its meaning.
fn attribute() -> impl Strategy<Value = (Vec<u8>, Vec<Bytes>, FetchData)> {
    let text = |text: String| text.into_bytes();
    let octets = || proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from);
    let none = FetchData::default;
    // There are as many literals as placeholders.
    let strange = proptest::sample::select(vec![
        "X-GM-MSGID 12",
        "BODY[1] \0",
        "BODY[HEADER.FIELDS (DATE FROM)] NIL",
        "body[header.fields (\0 FROM \0)] \0",
        "ENVELOPE (\"a \\\" )\" NIL ((\"b\" \0)) \0)",
        "X (\")\" (()) \0 BODY[] \0)",
        "X \"BODY[] \\\\\"",
    ]);
    prop_oneof![
        any::<u32>().prop_map(move |uid| {
            let told = FetchData {
                uid: Some(uid),
                ..none()
            };
            (text(format!("UID {uid}")), Vec::new(), told)
        }),
        any::<u64>().prop_map(move |size| {
            let told = FetchData {
                size: Some(size),
                ..none()
            };
            (text(format!("rfc822.SIZE {size}")), Vec::new(), told)
        }),
        any::<bool>().prop_map(move |seen| {
            let flags = if seen { "$x \\Seen" } else { "\\Recent" };
            let told = FetchData {
                seen: Some(seen),
                ..none()
            };
            (text(format!("FLAGS ({flags})")), Vec::new(), told)
        }),
        octets().prop_map(move |body| {
            let told = FetchData {
                body: Some(body.clone()),
                ..none()
            };
            (b"BODY[] \0".to_vec(), vec![body], told)
        }),
        "[ -~]{0,9}".prop_map(move |body| {
            let quoted = syntax::quoted(&body).unwrap();
            let told = FetchData {
                body: Some(body.into()),
                ..none()
            };
            (text(format!("Body[] {quoted}")), Vec::new(), told)
        }),
        (strange, octets()).prop_map(move |(strange, octets)| {
            let holes = strange.matches('\0').count();
            (text(strange.to_owned()), vec![octets; holes], none())
        }),
    ]
}

proptest! {
    #[test]
    fn each_attribute_has_its_own_value(
        attributes in proptest::collection::vec(attribute(), 0..8),
    ) {
        let mut line = b"* 1 FETCH (".to_vec();
        let mut literals = Vec::new();
        let mut wanted = FetchData::default();
        for (nth, (text, own, told)) in attributes.into_iter().enumerate() {
            if nth > 0 {
                line.push(b' ');
            }
            line.extend_from_slice(&text);
            literals.extend(own);
            wanted = FetchData {
                uid: told.uid.or(wanted.uid),
                size: told.size.or(wanted.size),
                seen: told.seen.or(wanted.seen),
                arrived: told.arrived.or(wanted.arrived),
                body: told.body.or(wanted.body),
            };
        }
        line.push(b')');
        let shown = line.escape_ascii().to_string();
        let read = parse(RawResponse { line, literals }).unwrap();
        prop_assert_eq!(read, ImapResponse::Untagged(Untagged::Fetch(wanted)), "{}", shown);
    }
}
