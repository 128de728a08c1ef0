//! Owns signed links to stored files: a link gives access to its file, without other credentials, until it
//! expires.
//!
//! Does not know whether the file exists.
//!
//! The link contains the name and type of the file, because one file may have arrived under many names. The
//! signature covers them, so that they cannot be changed.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use data_encoding::HEXLOWER;
use thiserror::Error;

use super::ObjectId;
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::signature::{self, HmacKey};

/// The path of served files; the id follows.
pub const LINK_PATH: &str = "/gateway/attachments/";
/// A label for deriving link keys from the secrets, so that no other signature is valid for a link.
const KEY_LABEL: &[u8] = b"postern attachment links v1";
/// The input that a key signs to derive its own name.
const NAME_LABEL: &[u8] = b"postern attachment links key name";

/// Makes and verifies links.
#[derive(Clone)]
pub struct LinkSigner {
    base_url: String,
    /// The keys: the first signs, all verify.
    keys: Vec<HmacKey>,
    lifetime: Duration,
}

/// The terms that the links to the files of one mail share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTerms {
    /// The URL with which they begin.
    pub base_url: String,
    /// Time at which they expire, in Unix seconds.
    pub expires: u64,
    /// The name of the key that signs them.
    pub key: [u8; 4],
}

/// The content of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachmentLink<'a> {
    /// Id of the file.
    pub id: ObjectId,
    /// The name of the file; may be empty.
    pub name: &'a str,
    /// The media type that the sender claims.
    pub media_type: &'a str,
    /// The time at which the link expires, in Unix seconds.
    pub expires: u64,
}

/// The reason why a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The link has expired.
    #[error("link expired")]
    Expired,
    /// The signature is invalid.
    #[error("link forged")]
    Forged,
}

impl LinkSigner {
    /// Links below this URL, valid for `lifetime` after their mail was received. A key derived from the
    /// first of `secrets` signs; links signed with the others are still accepted.
    pub fn new(base_url: &str, secrets: &[Secret], lifetime: Duration) -> Self {
        let key = |secret: &Secret| {
            let key = HmacKey::new(secret.reveal().as_bytes()).sign(&[KEY_LABEL]);
            HmacKey::new(key.as_ref())
        };
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            keys: secrets.iter().map(key).collect(),
            lifetime,
        }
    }

    /// The terms of the links to the files of a mail that came at `received_at`, as they are configured now.
    pub fn terms(&self, received_at: Timestamp) -> LinkTerms {
        LinkTerms {
            base_url: self.base_url.clone(),
            expires: received_at.plus(self.lifetime).as_secs(),
            key: self.keys.first().map(key_name).unwrap_or_default(),
        }
    }

    /// The URL of a file that came at `received_at`, on the configured terms. Without a key the URL has an
    /// empty signature, which is never valid.
    pub fn url(
        &self,
        id: ObjectId,
        name: Option<&str>,
        media_type: &str,
        received_at: Timestamp,
    ) -> String {
        self.url_on_terms(id, name, media_type, &self.terms(received_at))
    }

    /// The URL of a file on these terms: always the same as long as the key of that name is configured;
    /// after that the first key signs.
    pub fn url_on_terms(
        &self,
        id: ObjectId,
        name: Option<&str>,
        media_type: &str,
        terms: &LinkTerms,
    ) -> String {
        let link = AttachmentLink {
            id,
            name: name.unwrap_or_default(),
            media_type,
            expires: terms.expires,
        };
        let named = self.keys.iter().find(|key| key_name(key) == terms.key);
        let key = named.or_else(|| self.keys.first());
        let signature = key.map(|key| with_signed(&link, |parts| key.sign(parts)));
        let mut url = format!(
            "{}{LINK_PATH}{id}?expires={}&name=",
            terms.base_url, link.expires
        );
        percent_encode(&mut url, link.name);
        url.push_str("&type=");
        percent_encode(&mut url, link.media_type);
        url.push_str("&signature=");
        if let Some(signature) = signature {
            url.push_str(&HEXLOWER.encode(signature.as_ref()));
        }
        url
    }

    /// Verifies a link, in a time that reveals nothing about the signature.
    ///
    /// # Errors
    /// The signature is invalid, or the link has expired.
    pub fn verify(
        &self,
        link: &AttachmentLink<'_>,
        signature: &str,
        now: Timestamp,
    ) -> Result<(), LinkError> {
        let signature = HEXLOWER.decode(signature.as_bytes());
        let signature = signature.map_err(|_| LinkError::Forged)?;
        if !with_signed(link, |parts| {
            signature::verify_any(&self.keys, parts, &signature)
        }) {
            return Err(LinkError::Forged);
        }
        if now.as_secs() >= link.expires {
            return Err(LinkError::Expired);
        }
        Ok(())
    }
}

fn key_name(key: &HmacKey) -> [u8; 4] {
    let signature = key.sign(&[NAME_LABEL]);
    let first = signature.as_ref().first_chunk();
    first.copied().unwrap_or_default()
}

/// Passes the signed parts of a link to `work`.
fn with_signed<T>(link: &AttachmentLink<'_>, work: impl FnOnce(&[&[u8]]) -> T) -> T {
    work(&[
        &link.id.0,
        &link.expires.to_be_bytes(),
        &(link.name.len() as u64).to_be_bytes(),
        link.name.as_bytes(),
        link.media_type.as_bytes(),
    ])
}

impl fmt::Debug for LinkSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkSigner")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986 section 2.3).
fn percent_encode(into: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            _ => {
                // Writing to a string does not fail.
                let _ = write!(into, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_terms_stay_valid_after_a_change_of_settings() {
        let secrets = ["first secret", "second secret"].map(Secret::new);
        let day = Duration::from_secs(86_400);
        let old = LinkSigner::new("http://a.example", &secrets[..1], day);
        let (id, at) = (ObjectId::of(b"bytes"), Timestamp::from_secs(1000));
        let terms = old.terms(at);
        let url = old.url_on_terms(id, None, "a/b", &terms);
        let both = [secrets[1].clone(), secrets[0].clone()];
        let new = LinkSigner::new("http://b.example", &both, 2 * day);
        assert_eq!(new.url_on_terms(id, None, "a/b", &terms), url);
        assert_ne!(new.url(id, None, "a/b", at), url);
        let without = LinkSigner::new("http://b.example", &both[..1], day);
        let other = without.url_on_terms(id, None, "a/b", &terms);
        assert!(
            other != url && other.starts_with("http://a.example/"),
            "{other}"
        );
    }

    #[test]
    fn a_link_is_valid_unchanged_and_until_it_expires() {
        let links = LinkSigner::new(
            "http://a.example/",
            &[Secret::new("secret")],
            Duration::from_secs(60),
        );
        let at = Timestamp::from_secs(1000);
        let id = ObjectId::of(b"bytes");
        let url = links.url(id, Some("a&b=é.txt"), "text/plain", at);
        let head = format!(
            "http://a.example/gateway/attachments/{id}?expires=1060&name=a%26b%3D%C3%A9.txt\
             &type=text%2Fplain&signature="
        );
        let signature = url.strip_prefix(&head).unwrap();
        let link = AttachmentLink {
            id,
            name: "a&b=é.txt",
            media_type: "text/plain",
            expires: 1060,
        };
        assert_eq!(links.verify(&link, signature, at), Ok(()));
        let late = Timestamp::from_secs(1060);
        assert_eq!(
            links.verify(&link, signature, late),
            Err(LinkError::Expired)
        );
        for wrong in [
            AttachmentLink {
                expires: 2000,
                ..link
            },
            AttachmentLink {
                name: "a.exe",
                ..link
            },
            AttachmentLink {
                media_type: "text/html",
                ..link
            },
            AttachmentLink {
                name: "a&b=é.txttext",
                media_type: "/plain",
                ..link
            },
            AttachmentLink {
                id: ObjectId::of(b"other"),
                ..link
            },
        ] {
            assert_eq!(links.verify(&wrong, signature, at), Err(LinkError::Forged));
        }
        let other = LinkSigner::new(
            "http://a.example",
            &[Secret::new("other")],
            Duration::from_secs(60),
        );
        assert_eq!(other.verify(&link, signature, at), Err(LinkError::Forged));
        for signature in ["", "00", "zz"] {
            assert_eq!(links.verify(&link, signature, at), Err(LinkError::Forged));
        }
        assert!(!format!("{links:?}").contains("secret"));
    }

    #[test]
    fn a_link_survives_the_rotation_of_its_secret() {
        let signer = |secrets: &[&str]| {
            let secrets: Vec<_> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
            LinkSigner::new("http://a.example", &secrets, Duration::from_secs(60))
        };
        let at = Timestamp::from_secs(1000);
        let id = ObjectId::of(b"bytes");
        let url = signer(&["old"]).url(id, None, "text/plain", at);
        let (_, signature) = url.rsplit_once('=').unwrap();
        let link = AttachmentLink {
            id,
            name: "",
            media_type: "text/plain",
            expires: 1060,
        };
        assert_eq!(signer(&["new", "old"]).verify(&link, signature, at), Ok(()));
        for secrets in [["new"].as_slice(), &[]] {
            let refused = signer(secrets).verify(&link, signature, at);
            assert_eq!(refused, Err(LinkError::Forged));
        }
        assert_ne!(signer(&["new", "old"]).url(id, None, "text/plain", at), url);
    }
}
