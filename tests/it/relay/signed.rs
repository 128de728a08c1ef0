//! Outgoing mail signed with DKIM, verified by dkimpy.

use postern::mail::address::Domain;
use postern::outbound::dkim::{DkimSigningKey, signature_fields};
use serde_json::json;

use super::server::{Act, Fake};
use super::{Sending, job, mail, relay, settings};
use crate::auth::{keys, python};

const ED25519: &str = "ed._domainkey.example.com";
const RSA: &str = "rsa._domainkey.example.com";

fn signer(selector: &str, pem: &str) -> DkimSigningKey {
    DkimSigningKey::new(Domain::parse("example.com").unwrap(), selector, pem).unwrap()
}

/// An Ed25519 key, and the record of its public half.
fn ed25519() -> (DkimSigningKey, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = data_encoding::BASE64.encode(key.public_key_raw());
    let record = format!("v=DKIM1; k=ed25519; p={public}");
    (signer("ed", &key.serialize_pem()), record)
}

/// The result of dkimpy for the first signature.
fn holds(mail: &[u8], name: &str, record: &str) -> bool {
    let records = json!({ name: record });
    let mail = data_encoding::BASE64.encode(mail);
    python(&json!({ "mail": mail, "verify": records }))["dkim"] == true
}

#[test]
fn dkimpy_verifies_the_signatures_of_both_kinds() {
    let (ed, ed_record) = ed25519();
    let rsa = signer("rsa", &keys().rsa.private);
    let bodies = [
        "",
        "\r\n\r\n",
        "a  b \t\r\n\r\n \r\n\r\n",
        "no end",
        "a\r\n \t\r\n\r\n b \r\n\tc\r\n",
        "\u{e9}\r\n.\r\n",
    ];
    for body in bodies {
        let head = "From: Support via Us <support@example.com>\r\nTo: ann@example.org\r\nSubject:  An\r\n \
                    answer\r\nMessage-ID: <1@example.com>\r\nList-Id: <l.example.com>\r\n";
        let mail = format!("{head}\r\n{body}");
        for (signer, name, record) in [(&ed, ED25519, &ed_record), (&rsa, RSA, &keys().rsa.record)]
        {
            let field = signer.signature_field(mail.as_bytes()).unwrap();
            assert!(field.ends_with("\r\n") && field.lines().all(|line| line.len() <= 998));
            let signed = format!("{field}{mail}");
            assert!(holds(signed.as_bytes(), name, record), "{signed}");
            for forged in [
                signed.replace("To: ann", "To: bob"),
                format!("From: Eve <eve@example.com>\r\n{signed}"),
                signed.replacen("To:", "From: Eve <eve@example.com>\r\nTo:", 1),
                signed.replacen("To:", "Reply-To: eve@example.net\r\nTo:", 1),
                format!("{signed}more\r\n"),
            ] {
                assert!(!holds(forged.as_bytes(), name, record), "{forged}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_sent_with_the_signatures_of_all_keys() {
    let fake = Fake::start(|_, _| Act::Usual);
    let (ed, record) = ed25519();
    let signers = vec![signer("rsa", &keys().rsa.private), ed];
    let folder = tempfile::TempDir::new().unwrap();
    let sending = Sending::start_in(folder, vec![relay(fake.port)], settings(), signers);
    let job = job(1, "ann@example.org");
    sending.enqueue(&job).await;
    sending.over().await;
    let sent = fake.taken().remove(0).bytes;
    assert!(
        sent.ends_with(&mail(&job)),
        "the mail itself is as it was composed"
    );
    assert!(holds(&sent, RSA, &keys().rsa.record));
    let text = String::from_utf8(sent).unwrap();
    let (at, _) = text.match_indices("DKIM-Signature:").nth(1).unwrap();
    assert!(holds(&text.as_bytes()[at..], ED25519, &record));
    sending.stop().await;
}

#[test]
fn no_key_signs_nothing_and_bad_keys_are_refused() {
    assert_eq!(
        signature_fields(&[], b"From: a@b.example\r\n\r\n").unwrap(),
        ""
    );
    let domain = Domain::parse("example.com").unwrap();
    for (selector, pem) in [("s", keys().weak.private.as_str()), ("s", "x"), ("a b", "")] {
        assert!(DkimSigningKey::new(domain.clone(), selector, pem).is_err());
    }
    let (signer, _) = ed25519();
    for (from, aligned) in [
        ("example.com", true),
        ("mail.example.com", true),
        ("badexample.com", false),
        ("com", false),
    ] {
        assert_eq!(
            signer.is_aligned(&Domain::parse(from).unwrap()),
            aligned,
            "{from}"
        );
    }
}
