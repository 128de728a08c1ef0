//! Owns configured secrets: their sources, and the check of their strength.
//!
//! Does not use them, and never prints them, neither in `Debug` nor in an error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;

pub use crate::secret::Secret;

/// The minimum length of a signing key in octets: the output size of SHA-256, on which the HMAC is based.
pub const KEY_BYTES_MIN: usize = 32;
/// The maximum length of a secret in octets. A longer file is not a secret.
const SECRET_BYTES_MAX: usize = 4096;

impl Secret {
    /// Makes a secret of 256 random bits.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; KEY_BYTES_MIN];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self::new(BASE64URL_NOPAD.encode(&bytes)))
    }

    /// Reads a file with one secret; a final line end is not part of it.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        let mut file = File::open(path)?.take(SECRET_BYTES_MAX as u64 + 1);
        file.read_to_string(&mut text)?;
        if text.len() > SECRET_BYTES_MAX {
            let why = format!("more than {SECRET_BYTES_MAX} octets");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(Self::new(text))
    }

    /// Reads the secret at `path`, or generates one and stores it there, readable only by its
    /// owner.
    pub(super) fn read_or_make(path: &Path) -> io::Result<Self> {
        if path.exists() {
            return Self::read(path);
        }
        let secret = Self::random()?;
        // Written under another name first: a crash must not leave an incomplete key.
        let fresh = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(secret.reveal().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        Ok(secret)
    }

    /// The reason why the secret is too weak for signing, if it is. A repeated character is typical of an
    /// example.
    pub(super) fn weakness(&self) -> Option<String> {
        let mut characters = self.reveal().chars();
        let first = characters.next();
        if self.reveal().len() < KEY_BYTES_MIN {
            let have = self.reveal().len();
            return Some(format!(
                "secret too weak: {have} octets, at least {KEY_BYTES_MIN} are required"
            ));
        }
        if characters.all(|c| Some(c) == first) {
            return Some("secret too weak: all the same character".to_owned());
        }
        None
    }
}

/// True if every user of the machine can read the file at `path`.
pub(super) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weak_secret_is_reported_without_printing_it() {
        for weak in ["", "short", &"x".repeat(40), &"é".repeat(40)] {
            let secret = Secret::new(weak.to_owned());
            let why = secret.weakness().unwrap();
            assert!(weak.is_empty() || !why.contains(weak), "{why}");
            assert_eq!(format!("{secret:?}"), "Secret(…)");
        }
        assert!(Secret::random().unwrap().weakness().is_none());
    }

    #[test]
    fn a_kept_secret_is_for_its_owner_only_and_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = Secret::read_or_make(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(Secret::read_or_make(&path).unwrap().reveal(), made.reveal());
    }

    #[test]
    fn a_file_without_a_single_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "x".repeat(SECRET_BYTES_MAX + 1)).unwrap();
        assert!(Secret::read(&path).is_err());
        fs::write(&path, "words\r\n").unwrap();
        assert_eq!(Secret::read(&path).unwrap().reveal(), "words");
    }
}
