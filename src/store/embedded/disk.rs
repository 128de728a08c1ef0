//! Owns every disk change of the journal and the reading of a record, one call each, so that a test can make
//! any of them fail.
//!
//! Does not interpret the data, and never retries.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The real disk; in tests, one that can fail or stop at a chosen call.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Disk {
    #[cfg(test)]
    pub(in crate::store) faults: std::sync::Arc<faults::DiskFaults>,
}

impl Disk {
    /// Creates a file with `bytes` bytes allocated, replacing one of that name.
    pub(super) fn create(&self, path: &Path, bytes: u64) -> io::Result<File> {
        self.change(DiskChange::Create)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(file),
            // The file system cannot allocate in advance: the file grows as it is written.
            Err(Errno::OPNOTSUPP) => {
                file.set_len(bytes)?;
                Ok(file)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    pub(super) fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Err(error) = self.change(DiskChange::Write) {
            // A failed write may have been done in part.
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(error);
        }
        file.write_all_at(bytes, at)
    }

    /// Syncs the contents and the length of `file`.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.change(DiskChange::Sync)?;
        file.sync_data()
    }

    pub(super) fn shorten(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.change(DiskChange::Shorten)?;
        file.set_len(bytes)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(DiskChange::Rename)?;
        std::fs::rename(from, to)
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(DiskChange::Remove)?;
        std::fs::remove_file(path)
    }

    /// Syncs the names in `folder`.
    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.change(DiskChange::Sync)?;
        File::open(folder)?.sync_all()
    }

    /// Called before the index is written, which has its own files.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "under test the disk has faults")]
    #[expect(clippy::unnecessary_wraps, reason = "under test the disk has faults")]
    pub(super) const fn index_write(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn index_write(&self) -> io::Result<()> {
        self.faults.meet_index_write()
    }

    /// Reads `bytes` bytes at offset `at` of the file at `path`.
    pub(super) fn read(&self, path: &Path, at: u64, bytes: u32) -> io::Result<Vec<u8>> {
        self.read_fault()?;
        let file = File::open(path)?;
        let mut out = vec![0; bytes as usize];
        file.read_exact_at(&mut out, at)?;
        Ok(out)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "under test the disk has faults")]
    #[expect(clippy::unnecessary_wraps, reason = "under test the disk has faults")]
    const fn read_fault(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn read_fault(&self) -> io::Result<()> {
        self.faults.meet_read()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "under test the disk has faults")]
    #[expect(clippy::unnecessary_wraps, reason = "under test the disk has faults")]
    const fn change(&self, _: DiskChange) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn change(&self, change: DiskChange) -> io::Result<()> {
        self.faults.meet(change)
    }
}

/// The kinds of change that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum DiskChange {
    Create,
    Remove,
    Rename,
    Shorten,
    Sync,
    Write,
}

#[cfg(test)]
pub(in crate::store) mod faults {
    use std::collections::VecDeque;
    use std::io;
    use std::sync::Mutex;

    use super::DiskChange;

    /// The planned failures.
    #[derive(Debug, Default)]
    pub(in crate::store) struct DiskFaults(Mutex<FaultPlan>);

    #[derive(Debug, Default)]
    struct FaultPlan {
        met: u64,
        stop_at: Option<u64>,
        once: Option<(DiskChange, i32)>,
        reads: VecDeque<i32>,
        index_full: bool,
        journal_full: bool,
    }

    impl DiskFaults {
        /// Every change from the `count`-th on fails, as if the process had died.
        pub(in crate::store) fn stop_after(&self, count: u64) {
            let mut plan = self.0.lock().unwrap();
            plan.stop_at = Some(plan.met + count);
        }

        /// The next change of this kind fails with this errno, and only that one.
        pub(in crate::store) fn fail_once(&self, change: DiskChange, errno: i32) {
            self.0.lock().unwrap().once = Some((change, errno));
        }

        /// Makes the next reads of a record fail with these errnos, one each.
        pub(in crate::store) fn fail_reads(&self, errnos: &[i32]) {
            self.0.lock().unwrap().reads.extend(errnos);
        }

        /// Sets for which files the disk has no space.
        pub(in crate::store) fn set_full(&self, index: bool, journal: bool) {
            let mut plan = self.0.lock().unwrap();
            (plan.index_full, plan.journal_full) = (index, journal);
        }

        pub(super) fn meet_index_write(&self) -> io::Result<()> {
            match self.0.lock().unwrap().index_full {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }

        pub(super) fn meet_read(&self) -> io::Result<()> {
            match self.0.lock().unwrap().reads.pop_front() {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Ok(()),
            }
        }

        pub(super) fn meet(&self, change: DiskChange) -> io::Result<()> {
            let mut plan = self.0.lock().unwrap();
            plan.met += 1;
            if plan.stop_at.is_some_and(|stop| plan.met > stop) {
                return Err(io::Error::other("stopped"));
            }
            if plan.journal_full && matches!(change, DiskChange::Create | DiskChange::Write) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            match plan.once {
                Some((aimed, errno)) if aimed == change => {
                    plan.once = None;
                    Err(io::Error::from_raw_os_error(errno))
                }
                _ => Ok(()),
            }
        }
    }
}
