//! Owns the evacuation of mail segments that are nearly all settled: the remaining mails are relocated.
//!
//! Neither settles a mail nor removes a segment.

use super::WorkLeft;
use crate::store::embedded::frame::Record;
use crate::store::embedded::journal::AppendError;
use crate::store::embedded::journal_writer::JournalWriter;
use crate::store::embedded::location::RecordLocation;
use crate::store::embedded::open_mail::SegmentUsage;
use crate::store::embedded::segment::SegmentKind;
use crate::store::embedded::writer_thread::WriterStopped;
use crate::store::id::MailId;

/// Mails that are relocated in one step; their bytes are bounded too.
const MAILS_ONCE: usize = 64;
const MAIL_BYTES_ONCE: u64 = 2 << 20;
/// A mail segment is evacuated only if less than one part in this many of it is not settled.
const LIVE_FRACTION: u64 = 4;
/// A mail segment is evacuated only if this many segments were begun after it.
const MAIL_SEGMENTS_YOUNG: u64 = 4;

impl JournalWriter {
    /// Relocates mails from an old segment that is nearly all settled.
    pub(super) fn evacuate_mails(&mut self) -> Result<WorkLeft, WriterStopped> {
        let Some(number) = self.segment_to_evacuate() else {
            return Ok(WorkLeft::Nothing);
        };
        let mails = self.mails_of(number);
        let mut records = Vec::with_capacity(mails.len());
        for (mail, location) in &mails {
            let reader = &self.shared.mail_reader;
            let read = reader
                .head(*location)
                .and_then(|h| Ok((h, reader.body(*location)?)));
            match read {
                Ok((head, body)) => records.push(Record::relocated(mail.0, head, body)),
                Err(error) => {
                    tracing::error!(%mail, %error, "journal: a waiting mail cannot be read; its segment is kept");
                    self.maintenance.stuck.insert(number);
                    return Ok(WorkLeft::More);
                }
            }
        }
        let written = match self.journal.append(&records, &[]) {
            Ok(written) => written,
            Err(AppendError::Full) => return Ok(WorkLeft::Nothing),
            Err(AppendError::Dead) => return Err(WriterStopped),
        };
        self.shared.metrics.relocated(records.len());
        let mut state = self.shared.state_mut();
        for ((mail, _), location) in mails.iter().zip(written.mails) {
            state.relocate(*mail, location);
        }
        drop(state);
        self.publish();
        Ok(WorkLeft::More)
    }

    /// The oldest mail segment that is worth evacuating.
    fn segment_to_evacuate(&self) -> Option<u64> {
        let state = self.shared.state();
        let sealed = self.journal.sealed(SegmentKind::Mail);
        let open = self
            .journal
            .open_header(SegmentKind::Mail)
            .map(|h| h.number);
        let newest = open.or_else(|| sealed.keys().next_back().copied())?;
        let worth = |&(number, live): &(&u64, &SegmentUsage)| {
            number + MAIL_SEGMENTS_YOUNG <= newest
                && !self.maintenance.stuck.contains(number)
                && sealed
                    .get(number)
                    .is_some_and(|s| live.bytes * LIVE_FRACTION < s.bytes)
        };
        state.usage().iter().find(worth).map(|(number, _)| *number)
    }

    fn mails_of(&self, number: u64) -> Vec<(MailId, RecordLocation)> {
        let Some(sealed) = self.journal.sealed(SegmentKind::Mail).get(&number) else {
            return Vec::new();
        };
        let own = sealed.header.first_seq..=sealed.last_seq;
        let mut mails = self.shared.state().open_mails_in(number, own, MAILS_ONCE);
        let mut bytes = 0;
        // At least one, however large.
        mails.retain(|(_, location)| {
            let fits = bytes < MAIL_BYTES_ONCE;
            bytes += u64::from(location.body_bytes);
            fits
        });
        mails
    }
}
