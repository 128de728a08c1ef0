//! Owns the fingerprint, by which a second copy of a mail is recognised.
//!
//! Does not store fingerprints and does not know how long one is valid.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::envelope::{Recipient, RecipientTarget};
use super::view::{HeaderAddress, View};

/// The fingerprint of a mail for one recipient: the first 16 bytes of a SHA-256.
///
/// The fingerprint covers the parts that stay the same when one mail arrives twice, for example by SMTP and
/// by a webhook: the author, Message-ID, date, and the decoded words of the body. It excludes trace and
/// authentication fields, transfer encodings, charsets and line breaks. Without a Message-ID, which is
/// supposed to be unique, subject and attachments are included too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of the mail in `view` for `recipient`. For a token it covers the thread, so that all
    /// tokens of a thread give the same one.
    pub fn of(recipient: &Recipient, view: &View) -> Self {
        let header = &view.header;
        let mut authors: Vec<String> = header.from.iter().map(folded).collect();
        authors.sort_unstable();
        let date = header.date.map(|date| date.as_secs().to_string());

        let mut hash = Sha256::new();
        // A count before each list and a zero after each word keep the inputs of different mails different.
        match &recipient.target {
            RecipientTarget::Mailbox(_) => add_all(&mut hash, [recipient.address.folded()]),
            RecipientTarget::Return(job) => {
                add_all(&mut hash, [recipient.route.clone(), format!("job {job}")]);
            }
            RecipientTarget::Thread(claims) => {
                add_all(
                    &mut hash,
                    [recipient.route.clone(), claims.thread.to_string()],
                );
            }
        }
        add_all(&mut hash, authors);
        add_all(&mut hash, &header.message_id);
        add_all(&mut hash, date);
        // A blank text beside HTML carries no content, and some servers on the way add one.
        let text = view.text.as_deref().filter(|text| !text.trim().is_empty());
        let body = text.or(view.html.as_deref());
        add_all(&mut hash, body.unwrap_or_default().split_whitespace());
        if header.message_id.is_none() {
            let subject = header.subject.as_deref().unwrap_or_default();
            add_all(&mut hash, subject.split_whitespace());
            for attachment in &view.attachments {
                hash.update(Sha256::digest(attachment.bytes()));
            }
        }
        let digest = hash.finalize();
        Self(std::array::from_fn(|at| digest[at]))
    }
}

fn folded(correspondent: &HeaderAddress) -> String {
    match &correspondent.address {
        Some(address) => address.folded(),
        None => correspondent.text.to_lowercase(),
    }
}

fn add_all(hash: &mut Sha256, words: impl IntoIterator<Item = impl AsRef<str>>) {
    let mut count = 0u64;
    for word in words {
        // A word contains no zero: the view removes control characters.
        hash.update(word.as_ref());
        hash.update([0]);
        count += 1;
    }
    hash.update(count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address::Address;

    fn of(recipient: &str, mail: &str) -> Fingerprint {
        let recipient = Recipient {
            address: Address::parse(recipient).unwrap(),
            route: "default".to_owned(),
            target: RecipientTarget::Mailbox("general".to_owned()),
        };
        Fingerprint::of(&recipient, &View::parse(&mail.as_bytes().to_vec().into()))
    }

    const MAIL: &str = "From: Ann <ann@example.com>\nMessage-ID: <1@example.com>\n\
        Date: Sat, 31 Jan 2026 23:59:59 +0100\nContent-Type: text/plain; charset=utf-8\n\n\
        Grüße aus der Ferne,\nAnn\n";

    #[test]
    fn a_mail_with_other_trace_fields_is_the_same() {
        let same = of("reply@us.example", MAIL);
        assert_eq!(same, of("REPLY@US.example", MAIL));
        for carried in [
            format!("Received: from a by b; x\nDKIM-Signature: v=1\n{MAIL}"),
            MAIL.replace('\n', "\r\n"),
            MAIL.replace("Ann <ann@example.com>", "\"A.\" <Ann@EXAMPLE.com>"),
            MAIL.replace("23:59:59 +0100", "22:59:59 +0000"),
            MAIL.replace(
                "\n\nGrüße aus",
                "\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe =\naus",
            ),
            MAIL.replace("aus der", "aus\nder "),
        ] {
            assert_eq!(of("reply@us.example", &carried), same, "{carried}");
        }
    }

    #[test]
    fn without_a_message_id_subject_and_attachments_count() {
        let scan = |subject: &str, file: &str| {
            let mail = format!(
                "From: scanner@example.com\nSubject: {subject}\nMIME-Version: 1.0\n\
                 Content-Type: multipart/mixed; boundary=b\n\n\
                 --b\nContent-Type: text/plain\n\nA scan.\n\
                 --b\nContent-Type: image/png\nContent-Disposition: attachment\n\n{file}\n--b--\n"
            );
            of("reply@us.example", &mail)
        };
        let one = scan("Scan", "page one");
        assert_eq!(one, scan("Scan", "page one"));
        assert_ne!(one, scan("Scan", "page two"));
        assert_ne!(one, scan("Another scan", "page one"));
    }

    #[test]
    fn another_mail_is_another() {
        let one = of("reply@us.example", MAIL);
        assert_ne!(one, of("other@us.example", MAIL));
        for (from, to) in [
            ("<1@", "<2@"),
            ("ann@", "bob@"),
            ("31 Jan", "30 Jan"),
            ("Ferne", "Nähe"),
            ("der Ferne", "derFerne"),
            ("Message-ID", "X-Message-ID"),
        ] {
            assert_ne!(
                one,
                of("reply@us.example", &MAIL.replace(from, to)),
                "{from}"
            );
        }
    }
}
