//! Owns the folder of notes about mails that a provider stores: each note is on disk before the response,
//! and stays until its mail is in the store.
//!
//! Does not fetch, and does not store mails.
//!
//! ```text
//! FOLDER/ID.errand     a mail to fetch, as JSON
//! FOLDER/ID.parked     a mail that cannot be fetched: an operator may inspect it, and rename the file back
//! FOLDER/ID.N.new      an incomplete note
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::incoming::DeferredMail;
use crate::clock::Timestamp;

/// The number of notes. Above it the provider must retry.
const NOTES_MAX: usize = 100_000;

const OPEN: &str = "errand";
const PARKED: &str = "parked";
const UNFINISHED: &str = "new";

/// A note about one mail to fetch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FetchNote {
    /// The time at which the provider announced the mail.
    pub(super) at: Timestamp,
    pub(super) mail: DeferredMail,
    /// The name of the provider. Notes of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<String>,
}

/// The folder of notes. Clones share the folder.
#[derive(Clone, Debug)]
pub(super) struct NoteFolder {
    path: PathBuf,
    /// The number of notes in the folder, including parked ones.
    count: Arc<AtomicUsize>,
    /// The number of notes written by this process, which makes the names of incomplete ones unique.
    written: Arc<AtomicUsize>,
}

impl NoteFolder {
    /// The folder at `path`, which is created if it does not exist. Incomplete notes of an earlier process,
    /// which were not acknowledged, are removed.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let mut count = 0;
        for entry in fs::read_dir(&path)? {
            let path = entry?.path();
            match path.extension() {
                Some(state) if state == UNFINISHED => fs::remove_file(&path)?,
                _ => count += 1,
            }
        }
        Ok(Self {
            path,
            count: Arc::new(AtomicUsize::new(count)),
            written: Arc::default(),
        })
    }

    /// Stores a note that survives a crash. The same mail has one note.
    ///
    /// # Errors
    /// Errors of the file system; [`io::ErrorKind::StorageFull`] if there are too many notes.
    pub(super) fn persist(&self, note: &FetchNote) -> io::Result<()> {
        // The id was checked: it has only letters, digits, `-` and `_`.
        let id = &note.mail.id;
        let path = self.note_path(id, OPEN);
        if !path.exists() {
            if self.count.load(Ordering::Relaxed) >= NOTES_MAX {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Two concurrent requests about one mail must not write to the same file.
            let number = self.written.fetch_add(1, Ordering::Relaxed);
            let unfinished = self.note_path(&format!("{id}.{number}"), UNFINISHED);
            let written = write_synced(&unfinished, note);
            if let Err(error) = written.and_then(|()| fs::rename(&unfinished, &path)) {
                // If an incomplete note cannot be removed now, the next start does it.
                let _ = fs::remove_file(&unfinished);
                return Err(error);
            }
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        // A note that another request has just made may not be synced yet.
        File::open(&self.path)?.sync_all()
    }

    /// The ids of the open notes, the oldest first.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn open_notes(&self) -> io::Result<Vec<String>> {
        let (mut ids, mut count) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            count += 1;
            let path = entry.path();
            let id = path.file_stem().and_then(|id| id.to_str());
            if let Some(id) = id
                && path.extension().is_some_and(|state| state == OPEN)
            {
                match entry.metadata() {
                    Ok(metadata) => ids.push((metadata.modified()?, id.to_owned())),
                    // The mail was accepted in the meantime.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        // Files that a person has moved or removed are counted from here on.
        self.count.store(count, Ordering::Relaxed);
        ids.sort();
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    /// The open note of this id.
    ///
    /// # Errors
    /// Errors of the file system; [`io::ErrorKind::InvalidData`] if the file is not a note.
    pub(super) fn read(&self, id: &str) -> io::Result<FetchNote> {
        let bytes = fs::read(self.note_path(id, OPEN))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Removes the open note of this id after its mail is in the store.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        fs::remove_file(self.note_path(id, OPEN))?;
        let one_less = |count: usize| Some(count.saturating_sub(1));
        // The closure always returns a value.
        let _ = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        Ok(())
    }

    /// Parks the open note of this id for a person.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(super) fn park(&self, id: &str) -> io::Result<()> {
        fs::rename(self.note_path(id, OPEN), self.note_path(id, PARKED))
    }

    fn note_path(&self, id: &str, state: &str) -> PathBuf {
        self.path.join(format!("{id}.{state}"))
    }
}

fn write_synced(path: &Path, note: &FetchNote) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::incoming::Recipients;
    use super::*;

    fn note(id: &str) -> FetchNote {
        FetchNote {
            at: Timestamp::from_secs(1),
            mail: DeferredMail {
                id: id.to_owned(),
                recipients: Recipients::Envelope(vec!["a@in.example.com".to_owned()]),
                sender: None,
                request: Some("x".repeat(200_000)),
            },
            provider: Some("resend".to_owned()),
        }
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn concurrent_equal_notes_are_one_complete_note() {
        let folder = tempfile::tempdir().unwrap();
        let notes = NoteFolder::open(folder.path().to_owned()).unwrap();
        for round in 0..20 {
            let id = format!("e-{round}");
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        notes.persist(&note(&id)).unwrap();
                        // After the acknowledgement the note is complete.
                        assert_eq!(notes.read(&id).unwrap().mail, note(&id).mail);
                    });
                }
            });
        }
        assert_eq!(notes.open_notes().unwrap().len(), 20);
        assert_eq!(files(folder.path()).len(), 20, "{:?}", files(folder.path()));
    }

    #[test]
    fn a_note_of_the_version_before_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let notes = NoteFolder::open(folder.path().to_owned()).unwrap();
        let old = r#"{"at":1700000000000,"mail":{"id":"e-1","recipients":{"envelope":["a@b.example"]},"sender":null}}"#;
        fs::write(folder.path().join("e-1.errand"), old).unwrap();
        let read = notes.read("e-1").unwrap();
        assert_eq!((read.provider, read.mail.request), (None, None));
    }

    #[test]
    fn an_incomplete_note_of_an_earlier_process_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["e-1.7.new", "e-2.new", "e-3.parked"] {
            fs::write(folder.path().join(name), "{").unwrap();
        }
        let notes = NoteFolder::open(folder.path().to_owned()).unwrap();
        assert!(notes.open_notes().unwrap().is_empty());
        assert_eq!(files(folder.path()), ["e-3.parked"]);
    }
}
