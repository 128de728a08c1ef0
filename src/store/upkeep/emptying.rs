//! Owns the emptying of mail segments that are nearly all settled: the mails left in one are carried
//! forward.
//!
//! Does not settle a mail, nor remove a segment.

use super::Piece;
use crate::store::clerk::Clerk;
use crate::store::fact::MailId;
use crate::store::frame::Record;
use crate::store::held::Live;
use crate::store::journal::AppendError;
use crate::store::place::Place;
use crate::store::segment::Kind;
use crate::store::writer::Dead;

/// Mails carried forward in one piece, and about as many bytes.
const MAILS_ONCE: usize = 64;
const MAIL_BYTES_ONCE: u64 = 2 << 20;
/// A mail segment is emptied when less than one part in this many of it is not settled,
const LIVE_PART: u64 = 4;
/// and this many have been begun since.
const MAIL_SEGMENTS_YOUNG: u64 = 4;

impl Clerk {
    /// Carries mails forward out of an old segment that is nearly all settled.
    pub(super) fn empty_mails(&mut self) -> Result<Piece, Dead> {
        let Some(number) = self.pinned_segment() else {
            return Ok(Piece::Nothing);
        };
        let mails = self.mails_of(number);
        let mut records = Vec::with_capacity(mails.len());
        for (mail, place) in &mails {
            let reader = &self.shared.mails;
            let read = reader
                .head(*place)
                .and_then(|h| Ok((h, reader.body(*place)?)));
            match read {
                Ok((head, body)) => records.push(Record::carried(mail.0, head, body)),
                Err(error) => {
                    tracing::error!(%mail, %error, "journal: a mail that waits cannot be read; its segment is kept");
                    self.upkeep.stuck.insert(number);
                    return Ok(Piece::More);
                }
            }
        }
        let written = match self.journal.append(&records, &[]) {
            Ok(written) => written,
            Err(AppendError::Full) => return Ok(Piece::Nothing),
            Err(AppendError::Dead) => return Err(Dead),
        };
        self.shared.metrics.carried(records.len());
        let mut state = self.shared.state_mut();
        for ((mail, _), place) in mails.iter().zip(written.mails) {
            state.moved(*mail, place);
        }
        drop(state);
        self.applied();
        Ok(Piece::More)
    }

    /// The oldest mail segment that is worth emptying.
    fn pinned_segment(&self) -> Option<u64> {
        let state = self.shared.state();
        let sealed = self.journal.sealed(Kind::Mail);
        let open = self.journal.open_header(Kind::Mail).map(|h| h.number);
        let newest = open.or_else(|| sealed.keys().next_back().copied())?;
        let worth = |&(number, live): &(&u64, &Live)| {
            number + MAIL_SEGMENTS_YOUNG <= newest
                && !self.upkeep.stuck.contains(number)
                && sealed
                    .get(number)
                    .is_some_and(|s| live.bytes * LIVE_PART < s.bytes)
        };
        state.live().iter().find(worth).map(|(number, _)| *number)
    }

    fn mails_of(&self, number: u64) -> Vec<(MailId, Place)> {
        let Some(sealed) = self.journal.sealed(Kind::Mail).get(&number) else {
            return Vec::new();
        };
        let own = sealed.header.first_seq..=sealed.last_seq;
        let mut mails = self.shared.state().held_in(number, own, MAILS_ONCE);
        let mut bytes = 0;
        // At least one, however large.
        mails.retain(|(_, place)| {
            let fits = bytes < MAIL_BYTES_ONCE;
            bytes += u64::from(place.body_bytes);
            fits
        });
        mails
    }
}
