//! Owns the transfer of a few mails: fetching, storing, and then marking at the server.
//!
//! Does not choose the mails, nor record the progress in a folder.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tracing::warn;

use super::client::ImapClient;
use super::connection::ImapConnector;
use super::intake::{ImapIntake, Ownership};
use super::metrics::Metrics;
use super::settings::{AfterFetch, Settings};
use super::transport::ImapFault;
use crate::limits::MemoryBudget;

/// Octets by which a mail may exceed its reported size.
const SLACK_BYTES: usize = 64 << 10;

/// The parts shared by all folders of an account.
pub(super) struct ImapAccount {
    pub(super) settings: Settings,
    pub(super) connector: ImapConnector,
    pub(super) intake: ImapIntake,
    pub(super) metrics: Metrics,
    /// Octets of mails that all folders together hold in memory.
    pub(super) memory: Arc<MemoryBudget>,
}

/// A mail that is skipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct SkippedMail {
    pub(super) uid: u32,
    pub(super) reason: &'static str,
    pub(super) bytes: u64,
}

impl ImapAccount {
    /// Fetches mails, stores those that are ours, and only then marks them at the server. Returns the
    /// skipped ones.
    ///
    /// # Errors
    /// The failure that ended the transfer. Some of the mails may be stored, and none of the others is
    /// marked.
    pub(super) async fn transfer(
        &self,
        dialogue: &mut ImapClient,
        folder: &str,
        uids: &[u32],
        bytes_max: usize,
    ) -> Result<Vec<SkippedMail>, ImapFault> {
        self.intake.store.has_room(bytes_max as u64)?;
        let _permit = self.memory.acquire(bytes_max).await;
        let bodies = dialogue.fetch_bodies(uids, bytes_max + SLACK_BYTES).await?;
        for uid in uids {
            // A mail that is no longer listed was removed by another client.
            if !bodies.contains_key(uid) && dialogue.list_mails(*uid, *uid).await?.contains_key(uid)
            {
                return Err(ImapFault::Missing(*uid));
            }
        }
        let (taken, left) = self.store_mails(bodies).await?;
        if taken.is_empty() {
            return Ok(left);
        }
        match self.mark_fetched(dialogue, folder, &taken).await {
            Err(ImapFault::Refused { what, said }) => {
                self.metrics.unmarked(taken.len());
                warn!(protocol = "imap", folder = %folder.escape_debug(), what, said, mails = taken.len(), "accepted, but not marked");
                Ok(left)
            }
            marked => marked.map(|()| left),
        }
    }

    /// Stores mails in the order of their UIDs. Returns the stored and the skipped ones.
    async fn store_mails(
        &self,
        bodies: BTreeMap<u32, Bytes>,
    ) -> Result<(Vec<u32>, Vec<SkippedMail>), ImapFault> {
        let Self {
            intake, metrics, ..
        } = self;
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        let mut writes = Vec::new();
        for (uid, bytes) in bodies {
            match intake.find_recipients(&bytes).await? {
                Ownership::NotOurs(reason) => {
                    let bytes = bytes.len() as u64;
                    left.push(SkippedMail { uid, reason, bytes });
                }
                Ownership::Ours(recipients) => {
                    taken.push(uid);
                    writes.push(async move {
                        let length = bytes.len();
                        intake.accept(recipients, bytes).await?;
                        metrics.taken(length);
                        Ok::<_, ImapFault>(())
                    });
                }
            }
        }
        for kept in join_all(writes).await {
            kept?;
        }
        Ok((taken, left))
    }

    async fn mark_fetched(
        &self,
        dialogue: &mut ImapClient,
        folder: &str,
        uids: &[u32],
    ) -> Result<(), ImapFault> {
        let done = match &self.settings.after_fetch {
            AfterFetch::Seen => return dialogue.add_flag(uids, "\\Seen").await,
            AfterFetch::Move(target) => dialogue.move_to(uids, target).await?,
            AfterFetch::Delete => dialogue.delete(uids).await?,
        };
        if !done {
            self.metrics.unmarked(uids.len());
            warn!(protocol = "imap", folder = %folder.escape_debug(), mails = uids.len(), "accepted and marked as deleted: without UIDPLUS the server cannot remove them");
        }
        Ok(())
    }
}
