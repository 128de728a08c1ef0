//! Owns the name of an outgoing mail (its job) and the signed forms of that name in Message-IDs and return
//! paths.
//!
//! Does not compose mails and draws no randomness.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::address::{Address, AddressError, Domain, LOCAL_BYTES_MAX};
use super::token::KeyRing;

/// The prefix of a return path's local part.
const RETURN_PREFIX: &str = "bounce";
/// Bytes of a job's name.
const JOB_BYTES: usize = 16;
/// Bytes of HMAC-SHA256 that are kept.
const MAC_BYTES: usize = 16;
const SIGNED_ID_BYTES: usize = JOB_BYTES + MAC_BYTES;
/// Characters of a signed word.
const SIGNED_ID_CHARS: usize = (SIGNED_ID_BYTES * 8).div_ceil(5);

const _: () = assert!(RETURN_PREFIX.len() + 1 + SIGNED_ID_CHARS <= LOCAL_BYTES_MAX);

const MESSAGE_ID_LABEL: &[u8] = b"postern message-id v1\0";
const RETURN_PATH_LABEL: &[u8] = b"postern return path v1\0";
const COPY_LABEL: &[u8] = b"postern copy v1\0";
const LOOP_LABEL: &[u8] = b"postern loop mark v1\0";
/// Bytes of HMAC-SHA256 in a loop mark.
const LOOP_BYTES: usize = 10;

/// The name of one outgoing mail to one recipient. The name is unguessable if its bytes are random, and it
/// may be shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(pub [u8; JOB_BYTES]);

impl fmt::Display for JobId {
    /// Writes a hyphenated UUID in lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Uuid::from_bytes(self.0).hyphenated())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    /// Reads the output of [`Display`](fmt::Display) and nothing else.
    fn from_str(text: &str) -> Result<Self, JobIdError> {
        let job = Self(Uuid::try_parse(text).map_err(|_| JobIdError)?.into_bytes());
        if job.to_string() == text {
            Ok(job)
        } else {
            Err(JobIdError)
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;

    fn try_from(text: String) -> Result<Self, JobIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(job: JobId) -> Self {
        job.to_string()
    }
}

/// The text is not the form of a [`JobId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("job id is not a hyphenated UUID in lower case")]
pub struct JobIdError;

/// The name of the job for the copy to `copied` of the mail of the job `first`: a mail to several people
/// has one Message-ID, and a job for each. The newest key makes the name, so it can be derived again only
/// until the keys change.
pub fn copy_of(keys: &KeyRing, first: JobId, copied: &Address) -> JobId {
    let mac = keys.signature(&[COPY_LABEL, &first.0, copied.folded().as_bytes()]);
    JobId(std::array::from_fn(|at| mac[at]))
}

/// The Message-ID of the mail of `job` (RFC 5322 section 3.6.4), in angle brackets: `<BASE32(job ‖
/// MAC)@domain>`, signed with the newest key. Every attempt uses the same one.
pub fn message_id(keys: &KeyRing, domain: &Domain, job: JobId) -> String {
    format!(
        "<{}@{}>",
        signed_id(keys, MESSAGE_ID_LABEL, domain, job),
        domain.ascii()
    )
}

/// The job whose mail has this Message-ID, with or without brackets, in any case. For a mail to several
/// people it is the job of the recipient, not of a copy. `None` if no key of the ring signed it for this
/// domain.
pub fn job_of_message_id(keys: &KeyRing, domain: &Domain, text: &str) -> Option<JobId> {
    let text = text.trim();
    let inner = text.strip_prefix('<').and_then(|id| id.strip_suffix('>'));
    let (word, host) = inner.unwrap_or(text).split_once('@')?;
    is_domain(domain, host).then(|| job_of_signed_id(keys, MESSAGE_ID_LABEL, domain, word))?
}

/// The return path of the mail of `job`: `bounce+BASE32(job ‖ MAC)@domain`, signed with the newest key. A
/// bounce to it names exactly one mail, whatever the text of the bounce says.
///
/// # Errors
/// Never for a domain that was parsed from text: the local part always fits 64 octets.
pub fn return_path(keys: &KeyRing, domain: &Domain, job: JobId) -> Result<Address, AddressError> {
    let word = signed_id(keys, RETURN_PATH_LABEL, domain, job);
    Address::parse(&format!("{RETURN_PREFIX}+{word}@{}", domain.ascii()))
}

/// The job whose mail has this return path, in the form `bounce+WORD@` or `bounce-WORD@` in any case;
/// `None` if no key of the ring signed it for this domain.
pub fn job_of_return_path(keys: &KeyRing, domain: &Domain, address: &Address) -> Option<JobId> {
    if address.domain() != domain {
        return None;
    }
    let (prefix, rest) = address.local().split_at_checked(RETURN_PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(RETURN_PREFIX) {
        return None;
    }
    let word = rest.strip_prefix(['+', '-'])?;
    job_of_signed_id(keys, RETURN_PATH_LABEL, domain, word)
}

/// True if the address has the form of a return path, signed or not: only a signed word follows `bounce+`,
/// and no mailbox that begins with `bounce-` has a name as long as a signed word.
pub fn is_return_path_form(address: &Address) -> bool {
    let Some((prefix, rest)) = address.local().split_at_checked(RETURN_PREFIX.len()) else {
        return false;
    };
    prefix.eq_ignore_ascii_case(RETURN_PREFIX)
        && (rest.starts_with('+') || (rest.starts_with('-') && rest.len() == 1 + SIGNED_ID_CHARS))
}

/// The value of [`LOOP_FIELD`](super::kind::LOOP_FIELD) on mail from `domain`: a digest that cannot be
/// predicted without the key. The newest key makes it, so after a rotation older mail is recognised only by
/// its Message-ID.
pub fn loop_mark(keys: &KeyRing, domain: &Domain) -> String {
    let mac = keys.signature(&[LOOP_LABEL, domain.ascii().as_bytes()]);
    BASE32_NOPAD.encode(&mac[..LOOP_BYTES]).to_ascii_lowercase()
}

fn is_domain(domain: &Domain, text: &str) -> bool {
    Domain::parse(text).is_ok_and(|host| host == *domain)
}

fn signed_id(keys: &KeyRing, label: &[u8], domain: &Domain, job: JobId) -> String {
    let domain = domain.ascii();
    let mac = keys.signature(&[label, domain.as_bytes(), b"\0", &job.0]);
    let bytes = [&job.0[..], &mac[..MAC_BYTES]].concat();
    BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
}

fn job_of_signed_id(keys: &KeyRing, label: &[u8], domain: &Domain, word: &str) -> Option<JobId> {
    if word.len() != SIGNED_ID_CHARS {
        return None;
    }
    // The spare bits of the last character must be zero, so that a job has exactly one word apart from
    // case.
    let bytes = BASE32_NOPAD_NOCASE.decode(word.as_bytes()).ok()?;
    let (job, mac) = bytes.split_at_checked(JOB_BYTES)?;
    let domain = domain.ascii();
    let is_ours = keys.is_signature(&[label, domain.as_bytes(), b"\0", job], mac);
    let job = JobId(job.try_into().ok()?);
    is_ours.then_some(job)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::token::Format;

    const OLD: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NEW: &[u8] = b"fedcba9876543210fedcba9876543210";
    const NOW: Timestamp = Timestamp::from_millis(1_769_903_999_042);

    fn ring(keys: &[(u8, &[u8])]) -> KeyRing {
        let keys = keys.iter().map(|(id, secret)| (*id, secret.to_vec()));
        KeyRing::new(keys.collect(), KeyRing::LIFETIME).unwrap()
    }

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn at(local: &str, domain: &Domain) -> Address {
        Address::parse(&format!("{local}@{domain}")).unwrap()
    }

    /// The text with the bit `bit` of its signed word flipped.
    fn flipped(word: &str, bit: usize) -> String {
        let mut bytes = BASE32_NOPAD_NOCASE.decode(word.as_bytes()).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    }

    /// The expected values are computed with Python's hmac, hashlib and base64, from the description alone.
    #[test]
    fn known_answers() {
        let (keys, domain) = (ring(&[(3, OLD)]), domain("inbox.example.com"));
        let job: JobId = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap();
        let id = message_id(&keys, &domain, job);
        assert_eq!(
            id,
            "<n6lbt74lqzgqdnbnadhu7sle74wea452czml5oruad6to2vpdpkq@inbox.example.com>"
        );
        let path = return_path(&keys, &domain, job).unwrap();
        assert_eq!(
            path.to_string(),
            "bounce+n6lbt74lqzgqdnbnadhu7sle77lhdlqdrak7y7wdjgmupmayioia@inbox.example.com"
        );
        assert!(path.local().len() <= LOCAL_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn a_signed_word_gives_its_job(bytes: [u8; 16], bit in 0..SIGNED_ID_BYTES * 8) {
            let (keys, domain) = (ring(&[(3, OLD)]), domain("bücher.example"));
            let job = JobId(bytes);
            let id = message_id(&keys, &domain, job);
            let bare = id.trim_matches(['<', '>']);
            for text in [id.clone(), bare.to_owned(), id.to_uppercase(), format!(" {id}\r\n")] {
                prop_assert_eq!(job_of_message_id(&keys, &domain, &text), Some(job));
            }
            let path = return_path(&keys, &domain, job).unwrap();
            prop_assert!(path.local().len() <= LOCAL_BYTES_MAX && path.to_string().is_ascii());
            let word = path.local().strip_prefix("bounce+").unwrap();
            for local in [path.local(), &path.local().to_uppercase(), &format!("Bounce-{word}")] {
                prop_assert_eq!(job_of_return_path(&keys, &domain, &at(local, &domain)), Some(job));
            }

            let (id_word, _) = bare.split_once('@').unwrap();
            let forged = format!("<{}@{domain}>", flipped(id_word, bit));
            prop_assert_eq!(job_of_message_id(&keys, &domain, &forged), None);
            let forged = at(&format!("bounce+{}", flipped(word, bit)), &domain);
            prop_assert_eq!(job_of_return_path(&keys, &domain, &forged), None);

            // A word of one kind is not valid as the other.
            let crossed = at(&format!("bounce+{id_word}"), &domain);
            prop_assert_eq!(job_of_return_path(&keys, &domain, &crossed), None);
            let crossed = format!("<{word}@{domain}>");
            prop_assert_eq!(job_of_message_id(&keys, &domain, &crossed), None);
        }

        #[test]
        fn a_reply_token_is_no_return_path_nor_the_other_way_round(bytes: [u8; 16], thread: String) {
            let (keys, domain) = (ring(&[(3, OLD)]), domain("inbox.example.com"));
            for format in [Format::V1, Format::V2] {
                let token = keys.mint(format, &domain, &thread, None, NOW);
                for local in [format!("bounce+{token}"), format!("reply+{token}"), token] {
                    let Ok(address) = Address::parse(&format!("{local}@{domain}")) else {
                        continue; // Too long for an address.
                    };
                    prop_assert_eq!(job_of_return_path(&keys, &domain, &address), None);
                    let id = format!("<{address}>");
                    prop_assert_eq!(job_of_message_id(&keys, &domain, &id), None);
                }
            }
            let path = return_path(&keys, &domain, JobId(bytes)).unwrap();
            prop_assert!(keys.verify(&path, NOW).is_err());
            let word = path.local().strip_prefix("bounce+").unwrap();
            for local in [word.to_owned(), format!("reply+{word}")] {
                prop_assert!(keys.verify(&at(&local, &domain), NOW).is_err());
            }
        }

        #[test]
        fn any_text_does_not_panic(text: String, local in "bounce[+-][a-z2-7\u{212a}]{50,54}") {
            let (keys, domain) = (ring(&[(3, OLD)]), domain("inbox.example.com"));
            prop_assert_eq!(job_of_message_id(&keys, &domain, &text), None);
            prop_assert_eq!(job_of_return_path(&keys, &domain, &at(&local, &domain)), None);
        }

        #[test]
        fn a_job_prints_as_it_is_read(bytes: [u8; 16]) {
            let job = JobId(bytes);
            prop_assert_eq!(job.to_string().parse(), Ok(job));
            let json = serde_json::to_string(&job).unwrap();
            prop_assert_eq!(&json, &format!("\"{job}\""));
            prop_assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), job);
        }
    }

    #[test]
    fn a_return_path_is_recognised_by_its_form() {
        let domain = domain("inbox.example.com");
        let word = "a".repeat(SIGNED_ID_CHARS);
        for local in ["bounce+x", "BOUNCE+", &format!("bounce-{word}")] {
            assert!(is_return_path_form(&at(local, &domain)), "{local}");
        }
        for local in [
            "bounce",
            "bounce-team",
            "bounces+x",
            "boun\u{e7}+x",
            "reply+x",
            "b",
        ] {
            assert!(!is_return_path_form(&at(local, &domain)), "{local}");
        }
    }

    #[test]
    fn a_loop_mark_is_its_keys_and_its_domains() {
        let (keys, here) = (ring(&[(1, OLD)]), domain("inbox.example.com"));
        let mark = loop_mark(&keys, &here);
        assert_eq!(mark.len(), LOOP_BYTES * 8 / 5);
        assert!(mark.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(mark, loop_mark(&ring(&[(1, NEW)]), &here));
        assert_ne!(mark, loop_mark(&keys, &domain("inbox.example.org")));
        assert_eq!(mark, loop_mark(&keys, &domain("INBOX.example.com")));
    }

    #[test]
    fn a_rotated_key_verifies_and_a_removed_one_does_not() {
        let domain = domain("inbox.example.com");
        let job = JobId([7; 16]);
        let before = ring(&[(1, OLD)]);
        let (id, path) = (
            message_id(&before, &domain, job),
            return_path(&before, &domain, job).unwrap(),
        );
        let rotated = ring(&[(2, NEW), (1, OLD)]);
        assert_eq!(job_of_message_id(&rotated, &domain, &id), Some(job));
        assert_eq!(job_of_return_path(&rotated, &domain, &path), Some(job));
        assert_ne!(message_id(&rotated, &domain, job), id);
        let after = ring(&[(2, NEW)]);
        assert_eq!(job_of_message_id(&after, &domain, &id), None);
        assert_eq!(job_of_return_path(&after, &domain, &path), None);
    }

    #[test]
    fn another_domain_is_refused() {
        let keys = ring(&[(3, OLD)]);
        let (ours, theirs) = (domain("inbox.example.com"), domain("inbox.example.org"));
        let job = JobId([7; 16]);
        let id = message_id(&keys, &ours, job);
        let path = return_path(&keys, &ours, job).unwrap();
        assert_eq!(job_of_message_id(&keys, &theirs, &id), None);
        assert_eq!(job_of_return_path(&keys, &theirs, &path), None);
        let moved = id.replace("example.com", "example.org");
        assert_eq!(job_of_message_id(&keys, &theirs, &moved), None);
        assert_eq!(job_of_message_id(&keys, &ours, &moved), None);
        let moved = at(path.local(), &theirs);
        assert_eq!(job_of_return_path(&keys, &theirs, &moved), None);
    }

    #[test]
    fn other_spellings_of_a_uuid_are_no_job() {
        for text in [
            "6F9619FF-8B86-4D01-B42D-00CF4FC964FF",
            "6f9619ff8b864d01b42d00cf4fc964ff",
            "{6f9619ff-8b86-4d01-b42d-00cf4fc964ff}",
            "urn:uuid:6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(JobIdError), "{text}");
        }
    }
}
