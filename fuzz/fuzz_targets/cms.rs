//! Arbitrary octets as a CMS structure, and its content as a mail.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postern::mail::view::View;

fuzz_target!(|octets: &[u8]| {
    let mail = [b"Content-Type: application/pkcs7-mime\r\n\r\n".as_slice(), octets].concat();
    let view = View::parse(&Bytes::from(mail.clone()));
    for attachment in &view.attachments {
        assert_eq!(attachment.bytes().len(), attachment.size);
        assert!(attachment.size <= mail.len());
    }
});
