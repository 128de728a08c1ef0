//! Owns the store's folder: its lock, its version, and the folders within.
//!
//! Does not read their contents.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::store::error::OpenError;

/// The version of the folder's format.
const VERSION: &str = "1";

/// Makes a folder that only its owner may enter, unless it exists.
pub(super) fn make_folder(path: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| OpenError::io(path, e))?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

/// The lock on a folder. It is released on drop, even if a child process between fork and exec still has a
/// copy of the descriptor.
#[derive(Debug)]
pub(super) struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file would release it too, if there is no copy.
        let _ = self.0.unlock();
    }
}

/// Locks the folder for this process.
pub(super) fn lock(folder: &Path) -> Result<FolderLock, OpenError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| OpenError::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&path, error)),
    }
}

/// False if the folder has no version yet.
pub(super) fn check_version(folder: &Path) -> Result<bool, OpenError> {
    let path = folder.join("version");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == VERSION => Ok(true),
        Ok(text) => Err(OpenError::Version {
            path,
            version: text.trim().chars().take(20).collect(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io(&path, error)),
    }
}

pub(super) fn write_version(folder: &Path) -> Result<(), OpenError> {
    let draft = folder.join("new-version");
    let write = || {
        std::fs::write(&draft, format!("{VERSION}\n"))?;
        File::open(&draft)?.sync_all()?;
        std::fs::rename(&draft, folder.join("version"))
    };
    write().map_err(|e| OpenError::io(&draft, e))?;
    sync_folder(folder)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| OpenError::io(folder, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_folder_locked() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(matches!(lock(folder.path()), Err(OpenError::Locked { .. })));
        // A child process has such a copy between its fork and its exec.
        let copy = held.0.try_clone().unwrap();
        drop(held);
        assert!(lock(folder.path()).is_ok());
        drop(copy);
    }
}
