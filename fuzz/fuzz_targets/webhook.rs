//! Any bytes as a request to every provider's adapter: no panic.
//!
//! The first octet chooses the adapter and the media type. The adapters that verify a name and
//! password get a right one, so that their decoding is reached; the others are fuzzed up to their
//! signature.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postern::clock::Timestamp;
use postern::ingress::webhook::{
    Account, Adapter, Brevo, Generic, Headers, MailerSend, Mailgun, Mailjet, Mandrill, Postal,
    Postmark, PublicKey, Relay, Request, Secret, SendGrid, Ses, SparkPost,
};

const KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4FpwUUpToBbsxes4EtlDxBQ1GLZIoDoSN92nOwExtM85HWoNEbLX46F0U3szGFHGmeYu+Qvm8/9DHIUeOVSOIA==";

fn adapter(choice: u8) -> Box<dyn Adapter> {
    let accounts = || vec![Account::new("u", "p")];
    let secrets = || vec![Secret::new("s")];
    match choice % 12 {
        0 => Box::new(SendGrid::new(Vec::new(), accounts())),
        1 => Box::new(Postmark::new(accounts(), Vec::new())),
        2 => Box::new(Brevo::new(accounts(), &[])),
        3 => Box::new(Mailjet::new(accounts())),
        4 => Box::new(Relay::new(accounts())),
        5 => Box::new(SparkPost::new(Vec::new(), accounts())),
        6 => Box::new(Generic::new(secrets())),
        7 => Box::new(MailerSend::new(secrets())),
        8 => Box::new(Mailgun::new(secrets())),
        9 => Box::new(Mandrill::new(secrets(), "https://x.example/".to_owned())),
        10 => Box::new(Ses::new(vec!["arn:x".to_owned()], accounts())),
        _ => Box::new(Postal::new(PublicKey::parse(KEY).into_iter().collect())),
    }
}

fuzz_target!(|sent: &[u8]| {
    let [choice, body @ ..] = sent else {
        return;
    };
    let media: &[u8] = match choice >> 6 {
        0 => b"application/json",
        1 => b"multipart/form-data; boundary=b",
        2 => b"application/x-www-form-urlencoded",
        _ => b"message/rfc822",
    };
    let headers = Headers::new([
        ("content-type", media),
        ("authorization", b"Basic dTpw"),
        ("x-webhook-timestamp", b"1700000000000"),
        ("x-webhook-signature", b"00"),
        ("signature", b"00"),
        ("x-mandrill-signature", b"AAAA"),
        ("x-postal-signature-256", b"AAAA"),
    ]);
    let request = Request::new(headers, Bytes::copy_from_slice(body), None);
    let adapter = adapter(*choice);
    adapter.is_marked(&request);
    adapter.is_ping(&request);
    let _ = adapter.certificate(&request);
    let now = Timestamp::from_secs(1_700_000_000);
    if let Ok(authentic) = adapter.authenticate(&request, now, Some(body)) {
        let _ = adapter.once(authentic);
        let _ = adapter.decode(authentic);
    }
});
