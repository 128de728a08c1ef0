//! Arbitrary octets as a text with files in uuencode, and as a body in that encoding.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postern::mail::view::View;

fuzz_target!(|octets: &[u8]| {
    let mail = [b"Content-Type: text/plain\r\n\r\nbegin 644 a\r\n".as_slice(), octets].concat();
    let view = View::parse(&Bytes::from(mail.clone()));
    for attachment in &view.attachments {
        assert_eq!(attachment.bytes().len(), attachment.size);
        assert!(attachment.size <= mail.len());
    }
    let encoded = b"Content-Type: a/b\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n";
    let body = [encoded.as_slice(), octets].concat();
    let view = View::parse(&Bytes::from(body));
    assert!(view.attachments.iter().all(|file| file.size <= octets.len()));
});
