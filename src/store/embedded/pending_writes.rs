//! Owns changes on their way from the state to the index.
//!
//! Does not decide when they are written.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::{Index, IndexError, IndexKey, IndexMeta};
use super::open_mail::OpenMail;

/// Changes taken from the state for writing to the index.
#[derive(Debug)]
pub(super) struct PendingWrites {
    pub(super) entries: Arc<HashMap<IndexKey, Option<Vec<u8>>>>,
    pub(super) mails: Vec<(IndexKey, Option<OpenMail>)>,
    pub(super) meta: IndexMeta,
}

impl PendingWrites {
    /// Writes the changes, and last the meta that makes them valid.
    pub(super) fn write(&self, index: &Index) -> Result<(), IndexError> {
        let json = |held: &OpenMail| serde_json::to_vec(held).ok();
        let mails: Vec<(IndexKey, Option<Vec<u8>>)> = self
            .mails
            .iter()
            .map(|(key, held)| (*key, held.as_ref().and_then(json)))
            .collect();
        index.apply(sorted(&self.entries), None)?;
        let mails = mails.iter().map(|(key, held)| (*key, held.as_deref()));
        index.apply(mails, Some(&self.meta))
    }
}

/// The changes in key order, which is fastest for the index, with removals last. So a job that moves from
/// one key to another is in both after an interruption, and never in none, where later facts would miss it.
pub(in crate::store) fn sorted(
    entries: &HashMap<IndexKey, Option<Vec<u8>>>,
) -> impl Iterator<Item = (IndexKey, Option<&[u8]>)> {
    let mut entries: Vec<_> = entries.iter().map(|(k, v)| (*k, v.as_deref())).collect();
    entries.sort_unstable_by_key(|(key, value)| (value.is_none(), *key));
    entries.into_iter()
}
