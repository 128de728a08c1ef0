//! Owns the handle to a store.
//!
//! Does not know the backend after opening.

use std::ops::Deref;
use std::sync::Arc;

use super::door::StoreBackend;
use super::embedded::backend::EmbeddedStore;
use super::embedded::disk::Disk;
use super::error::OpenError;
use super::settings::Settings;
use crate::clock::Timestamp;

/// A handle to everything that must survive a crash. Clones are handles to the same store.
///
/// The handle dereferences to [`StoreBackend`] with its four parts.
#[derive(Clone, Debug)]
pub struct Store(Arc<dyn StoreBackend>);

impl Store {
    /// Opens the embedded store in `settings.folder`, or creates one there. Blocks while the last segments
    /// of the journal, and records that the index lacks, are read.
    ///
    /// # Errors
    /// The folder is in use, damaged, or of a newer version; or the disk fails.
    pub fn open(settings: Settings, now: Timestamp) -> Result<Self, OpenError> {
        let opened = EmbeddedStore::open(settings, now, Disk::default())?;
        Ok(Self::of(Arc::new(opened)))
    }

    /// A handle to any other backend.
    pub(super) fn of(backend: Arc<dyn StoreBackend>) -> Self {
        Self(backend)
    }

    /// Writes pending changes and stops. The folder is free for another process when this returns and no
    /// other clone is left.
    pub async fn close(self) {
        self.0.close().await;
    }
}

impl Deref for Store {
    type Target = dyn StoreBackend;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}
