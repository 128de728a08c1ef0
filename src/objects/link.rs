//! Owns links to kept files: who has one may fetch the file until it expires.
//!
//! Does not know whether the file is there.
//!
//! The file's name and type stand in the link, for one file may have come under many names; the
//! signature covers them, so that nobody can give a file a name its sender did not give it.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use thiserror::Error;

use super::ObjectId;
use crate::clock::Timestamp;

/// The path below which files are served; the id follows.
pub const LINK_PATH: &str = "/gateway/attachments/";

/// Makes links and proves them.
#[derive(Clone)]
pub struct LinkSigner {
    base_url: String,
    key: Vec<u8>,
    /// How long after its mail was received a link is good.
    lifetime: Duration,
}

/// What a link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachmentLink<'a> {
    /// The file.
    pub id: ObjectId,
    /// Its name; may be empty.
    pub name: &'a str,
    /// What its sender says it is.
    pub media_type: &'a str,
    /// When the link ends, in seconds since the Unix epoch.
    pub expires: u64,
}

/// Why a link is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// It was good once.
    #[error("link expired")]
    Expired,
    /// We did not make it.
    #[error("link forged")]
    Forged,
}

impl LinkSigner {
    /// Links below this URL, signed with a key made of `secret`.
    pub fn new(base_url: &str, secret: &[u8], lifetime: Duration) -> Self {
        // A key of its own, so that what is signed here is never taken for something else.
        let mut key = mac(secret);
        key.update(b"postern attachment links v1");
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            key: key.finalize().into_bytes().to_vec(),
            lifetime,
        }
    }

    /// The URL of a file that came at `received_at`: always the same for the same mail.
    pub fn url(
        &self,
        id: ObjectId,
        name: Option<&str>,
        media_type: &str,
        received_at: Timestamp,
    ) -> String {
        let link = AttachmentLink {
            id,
            name: name.unwrap_or_default(),
            media_type,
            expires: received_at.plus(self.lifetime).as_secs(),
        };
        let signature = HEXLOWER.encode(&self.link_mac(&link).finalize().into_bytes());
        let mut url = format!(
            "{}{LINK_PATH}{id}?expires={}&name=",
            self.base_url, link.expires
        );
        percent_encode(&mut url, link.name);
        url.push_str("&type=");
        percent_encode(&mut url, link.media_type);
        url.push_str("&signature=");
        url.push_str(&signature);
        url
    }

    /// Proves a link, in a time that tells nothing of the signature.
    ///
    /// # Errors
    /// It is not ours, or not good any more.
    pub fn verify(
        &self,
        link: &AttachmentLink<'_>,
        signature: &str,
        now: Timestamp,
    ) -> Result<(), LinkError> {
        let signature = HEXLOWER.decode(signature.as_bytes());
        let signature = signature.map_err(|_| LinkError::Forged)?;
        let proven = self.link_mac(link).verify_slice(&signature);
        proven.map_err(|_| LinkError::Forged)?;
        if now.as_secs() >= link.expires {
            return Err(LinkError::Expired);
        }
        Ok(())
    }

    fn link_mac(&self, link: &AttachmentLink<'_>) -> Hmac<Sha256> {
        let mut mac = mac(&self.key);
        mac.update(&link.id.0);
        mac.update(&link.expires.to_be_bytes());
        mac.update(&(link.name.len() as u64).to_be_bytes());
        mac.update(link.name.as_bytes());
        mac.update(link.media_type.as_bytes());
        mac
    }
}

impl fmt::Debug for LinkSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

/// Percent-encodes all but the unreserved characters (RFC 3986 section 2.3).
fn percent_encode(into: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            _ => {
                // Writing into a text does not fail.
                let _ = write!(into, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_good_as_it_was_made_and_until_it_ends() {
        let links = LinkSigner::new("http://a.example/", b"secret", Duration::from_secs(60));
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
        let other = LinkSigner::new("http://a.example", b"other", Duration::from_secs(60));
        assert_eq!(other.verify(&link, signature, at), Err(LinkError::Forged));
        for signature in ["", "00", "zz"] {
            assert_eq!(links.verify(&link, signature, at), Err(LinkError::Forged));
        }
        assert!(!format!("{links:?}").contains("secret"));
    }
}
