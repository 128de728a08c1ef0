//! Owns the draft: the mail that the product asks Postern to send, parsed and bounded.
//!
//! Does not fill in missing parts and does not compose the mail.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::address::Address;

/// The upper bound of copy recipients in one draft: each of them gets a separate mail.
pub const CC_MAX: usize = 10;

/// The two calls that carry a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DraftCall {
    /// The event `message.created`.
    Event,
    /// The direct call.
    Direct,
}

impl DraftCall {
    /// The last segment of the call's path.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "events",
            Self::Direct => "outbound",
        }
    }
}

/// The identity of a request, by which a repeated request is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DraftKey {
    /// A key that the request gave.
    Given(String),
    /// The product's own id of the message.
    Message(String),
    /// The input of the request's signature: only the very same request repeats it.
    Signed(String),
    /// No identity: each request is a separate mail.
    Random([u8; 16]),
}

/// A file of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftFile {
    /// The name of the file.
    pub filename: String,
    /// The media type.
    pub content_type: String,
    /// The content.
    pub bytes: Bytes,
}

/// A mail that the product asks to have sent. Header texts have no control characters; an absent field is
/// `None` or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The call that carried the draft.
    pub call: DraftCall,
    /// The key that identifies a repeated request, beside the id of the message.
    pub key: DraftKey,
    /// The name of the route.
    pub route: Option<String>,
    /// The id of the thread.
    pub thread_id: String,
    /// The product's own id of the message.
    pub message_id: Option<String>,
    /// The recipient, if the product names one.
    pub recipient: Option<Address>,
    /// The recipient's display name.
    pub recipient_name: Option<String>,
    /// The recipients of a copy: at most [`CC_MAX`], without duplicates and without the recipient.
    pub cc: Vec<Address>,
    /// The subject.
    pub subject: Option<String>,
    /// The display name of the sender.
    pub sender_name: Option<String>,
    /// The message as plain text.
    pub text: String,
    /// The message as HTML.
    pub html: Option<String>,
    /// The attached files.
    pub files: Vec<DraftFile>,
    /// Extra header fields: name and value.
    pub headers: Vec<(String, String)>,
    /// The language tag of the fixed texts.
    pub locale: Option<String>,
    /// True if no person wrote the message.
    pub is_automatic: bool,
    /// The Message-ID of the thread's newest mail that the product knows.
    pub last_message_id: Option<String>,
}

/// A part of a draft that can be invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftPart {
    /// The files.
    Attachments,
    /// The recipients of a copy.
    Cc,
    /// The extra header fields.
    Headers,
    /// The HTML.
    Html,
    /// The recipient.
    Recipient,
    /// The route.
    Route,
    /// The sender's display name.
    SenderName,
    /// The subject.
    Subject,
    /// The message text.
    Text,
    /// The thread.
    ThreadId,
}

impl Draft {
    /// The names of the job for `to` on `route`: by the key of the request and, if it differs, by the id of
    /// the message, because a client that repeats a request may make up a new key each time. A repeated
    /// request for the same person has the same names; each call, route and kind of key has its own.
    pub fn job_keys(&self, route: &str, to: &Address) -> ([u8; 16], Option<[u8; 16]>) {
        let (kind, key): (&str, &[u8]) = match &self.key {
            DraftKey::Given(key) => ("given", key.as_bytes()),
            DraftKey::Message(id) => ("message", id.as_bytes()),
            DraftKey::Signed(id) => ("signed", id.as_bytes()),
            DraftKey::Random(bytes) => ("random", bytes),
        };
        let name = |kind, key| self.job_key(route, to, kind, key);
        let of_message = self.message_id.as_ref();
        let also = of_message.map(|id| name("message", id.as_bytes()));
        let key = name(kind, key);
        (key, also.filter(|also| *also != key))
    }

    fn job_key(&self, route: &str, to: &Address, kind: &str, key: &[u8]) -> [u8; 16] {
        // The copy recipients are part of the name; the recipient is not, because Postern may fill it in.
        let copy = if self.cc.contains(to) {
            to.folded()
        } else {
            String::new()
        };
        let mut sum = DigestBuilder::new("postern job key v1");
        for part in [route, self.call.name(), kind] {
            sum.add(part.as_bytes());
        }
        sum.add(key);
        sum.add(copy.as_bytes());
        sum.end()
    }

    /// The digest of the request's content, without its key.
    pub fn content_digest(&self) -> [u8; 16] {
        let mut sum = DigestBuilder::new("postern draft v1");
        sum.add(self.call.name().as_bytes());
        sum.add(self.thread_id.as_bytes());
        sum.add(self.text.as_bytes());
        sum.add(&[u8::from(self.is_automatic)]);
        let recipient = self.recipient.as_ref().map(ToString::to_string);
        for maybe in [
            &self.route,
            &self.message_id,
            &recipient,
            &self.recipient_name,
            &self.subject,
            &self.sender_name,
            &self.html,
            &self.locale,
            &self.last_message_id,
        ] {
            sum.add(&[u8::from(maybe.is_some())]);
            sum.add(maybe.as_deref().unwrap_or_default().as_bytes());
        }
        sum.count(self.cc.len());
        for address in &self.cc {
            sum.add(address.to_string().as_bytes());
        }
        sum.count(self.headers.len());
        for (name, value) in &self.headers {
            sum.add(name.as_bytes());
            sum.add(value.as_bytes());
        }
        sum.count(self.files.len());
        for file in &self.files {
            sum.add(file.filename.as_bytes());
            sum.add(file.content_type.as_bytes());
            sum.add(&file.bytes);
        }
        sum.end()
    }
}

/// The digest by which a message that Postern itself posted into a thread of a route is recognised.
pub fn posted_marker(route: &str, thread_id: &str, message_id: &str) -> [u8; 16] {
    let mut sum = DigestBuilder::new("postern posted message v1");
    for part in [route, thread_id, message_id] {
        sum.add(part.as_bytes());
    }
    sum.end()
}

/// A digest of parts, each preceded by its length, so that the boundaries between parts are unambiguous.
struct DigestBuilder(Sha256);

impl DigestBuilder {
    fn new(label: &str) -> Self {
        let mut sum = Self(Sha256::new());
        sum.add(label.as_bytes());
        sum
    }

    fn add(&mut self, part: &[u8]) {
        self.count(part.len());
        self.0.update(part);
    }

    fn count(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }

    fn end(self) -> [u8; 16] {
        let whole = self.0.finalize();
        std::array::from_fn(|at| whole[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            call: DraftCall::Event,
            key: DraftKey::Message("m1".to_owned()),
            route: None,
            thread_id: "t1".to_owned(),
            message_id: Some("m1".to_owned()),
            recipient: Address::parse("ann@example.com").ok(),
            recipient_name: None,
            cc: vec![Address::parse("bob@example.com").unwrap()],
            subject: None,
            sender_name: None,
            text: "Hello".to_owned(),
            html: None,
            files: vec![DraftFile {
                filename: "a".to_owned(),
                content_type: "text/plain".to_owned(),
                bytes: Bytes::from_static(b"x"),
            }],
            headers: vec![("X-A".to_owned(), "b".to_owned())],
            locale: None,
            is_automatic: false,
            last_message_id: None,
        }
    }

    #[test]
    fn each_part_changes_the_digest_unambiguously() {
        let changes: [fn(&mut Draft); 15] = [
            |d| d.call = DraftCall::Direct,
            |d| d.thread_id.push('x'),
            |d| d.message_id = None,
            |d| d.recipient = None,
            |d| d.recipient_name = Some(String::new()),
            |d| d.cc.clear(),
            |d| d.subject = Some("s".to_owned()),
            |d| d.sender_name = Some("s".to_owned()),
            |d| d.text.push(' '),
            |d| d.html = Some("s".to_owned()),
            |d| d.files[0].bytes = Bytes::from_static(b"y"),
            |d| d.headers[0] = ("X-Ab".to_owned(), String::new()),
            |d| d.locale = Some("de".to_owned()),
            |d| d.is_automatic = true,
            |d| d.last_message_id = Some("s".to_owned()),
        ];
        let mut seen = std::collections::BTreeSet::from([draft().content_digest()]);
        for change in changes {
            let mut draft = draft();
            change(&mut draft);
            assert!(seen.insert(draft.content_digest()), "{draft:?}");
        }
        let mut keyed = draft();
        keyed.key = DraftKey::Given("k".to_owned());
        assert_eq!(keyed.content_digest(), draft().content_digest());
    }

    #[test]
    fn a_job_is_named_by_route_call_key_and_copies() {
        let (ann, bob) = ("ann@example.com", "bob@example.com");
        let at = |text| Address::parse(text).unwrap();
        let name = draft().job_keys("default", &at(ann));
        assert_eq!(name, draft().job_keys("default", &at("eve@example.com")));
        let mut others = vec![
            draft().job_keys("default", &at(bob)),
            draft().job_keys("other", &at(ann)),
        ];
        for key in [
            DraftKey::Given("m1".to_owned()),
            DraftKey::Signed("m1".to_owned()),
            DraftKey::Message("m2".to_owned()),
            DraftKey::Random([0; 16]),
        ] {
            let draft = Draft { key, ..draft() };
            others.push(draft.job_keys("default", &at(ann)));
        }
        let direct = Draft {
            call: DraftCall::Direct,
            ..draft()
        };
        others.push(direct.job_keys("default", &at(ann)));
        others.push(name);
        others.sort_unstable();
        others.dedup();
        assert_eq!(others.len(), 8);
        // A given key does not replace the message id.
        let given = DraftKey::Given("k".to_owned());
        let (given, also) = Draft {
            key: given,
            ..draft()
        }
        .job_keys("default", &at(ann));
        assert_eq!((also, name.1), (Some(name.0), None));
        assert_ne!(given, name.0);
    }
}
