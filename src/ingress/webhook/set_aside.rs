//! Owns the malformed items of batches, each in a file for a person: the valid items of their batch are
//! accepted, and the provider does not repeat it.
//!
//! Does not read the files again.
//!
//! ```text
//! FOLDER/PROVIDER-DIGEST.json     one item, unchanged
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::HEXLOWER;
use ring::digest;

/// The number of files.
const FILES_MAX: usize = 1_000;
/// Octets of all files.
const BYTES_MAX: u64 = 256 << 20;

/// The folder of malformed items. Clones share the folder.
#[derive(Clone, Debug)]
pub struct SetAside {
    folder: PathBuf,
    used: Arc<Mutex<Used>>,
}

/// The space used by the files in the folder.
#[derive(Debug, Default)]
struct Used {
    files: usize,
    bytes: u64,
}

impl SetAside {
    /// The items in `folder`, which is created with the first one.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut used = Used::default();
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    used.files += 1;
                    used.bytes += entry?.metadata()?.len();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            folder,
            used: Arc::new(Mutex::new(used)),
        })
    }

    /// Stores an item on disk; returns the name of its file. The same item has the same file.
    ///
    /// # Errors
    /// Errors of the file system; [`io::ErrorKind::StorageFull`] if there are too many items, or too long
    /// ones.
    pub(super) fn keep(&self, provider: &str, item: &str) -> io::Result<String> {
        let digest = digest::digest(&digest::SHA256, item.as_bytes());
        let name = format!("{provider}-{}", HEXLOWER.encode(&digest.as_ref()[..16]));
        let path = self.folder.join(format!("{name}.json"));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if path.exists() {
            return Ok(name);
        }
        let bytes = used.bytes.saturating_add(item.len() as u64);
        if used.files >= FILES_MAX || bytes > BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        fs::create_dir_all(&self.folder)?;
        let unfinished = self.folder.join(format!("{name}.new"));
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&unfinished)?;
        file.write_all(item.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(&self.folder)?.sync_all()?;
        used.files += 1;
        used.bytes = bytes;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_kept_once_and_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set-aside");
        let aside = SetAside::open(path.clone()).unwrap();
        let name = aside.keep("mandrill", "{\"a\":1}").unwrap();
        assert_eq!(aside.keep("mandrill", "{\"a\":1}").unwrap(), name);
        let kept = fs::read_to_string(path.join(format!("{name}.json"))).unwrap();
        assert_eq!(kept, "{\"a\":1}");
        for n in 1..FILES_MAX {
            fs::write(path.join(format!("{n}.json")), "x").unwrap();
        }
        let full = SetAside::open(path).unwrap();
        let refused = full.keep("mandrill", "{\"b\":1}").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert_eq!(full.keep("mandrill", "{\"a\":1}").unwrap(), name);
    }
}
