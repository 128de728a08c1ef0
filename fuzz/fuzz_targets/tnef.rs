//! Arbitrary octets as a TNEF stream: its words, Rich Text and files.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postern::mail::view::View;

fuzz_target!(|octets: &[u8]| {
    let mail = [b"Content-Type: application/ms-tnef\r\n\r\n\x78\x9f\x3e\x22\x01\x00".as_slice(), octets].concat();
    let view = View::parse(&Bytes::from(mail.clone()));
    for attachment in &view.attachments {
        assert_eq!(attachment.bytes().len(), attachment.size);
        assert!(attachment.size <= mail.len());
    }
});
