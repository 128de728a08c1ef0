//! Arbitrary bytes as a mail: the view, the kind, the bounce report, the reply text and the fingerprint.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use postern::mail::address::Address;
use postern::mail::envelope::{Recipient, RecipientTarget};
use postern::mail::fingerprint::Fingerprint;
use postern::mail::kind::{ClassifyContext, classify};
use postern::mail::reply::{ReplyInput, MARKER_DEFAULT, extract};
use postern::mail::subject::Subject;
use postern::mail::view::View;

fuzz_target!(|mail: &[u8]| {
    let view = View::parse(&Bytes::copy_from_slice(mail));
    let _ = classify(&view, &ClassifyContext::UNKNOWN);
    let subject = view.header.subject.clone().unwrap_or_default();
    let once = Subject::of(&subject).normalised;
    assert_eq!(Subject::of(&once).normalised, once);
    let _ = extract(&ReplyInput {
        text: view.text.as_deref(),
        html: view.html.as_deref(),
        subject: &subject,
        known: &[],
        answers_nothing: false,
        marker: MARKER_DEFAULT,
    });
    if let Ok(address) = Address::parse("support@inbox.test") {
        let target = RecipientTarget::Mailbox("support".to_owned());
        let _ = Fingerprint::of(&Recipient { address, route: String::new(), target }, &view);
    }
});
