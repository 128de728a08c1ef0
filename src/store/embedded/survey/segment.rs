//! Owns the survey of one segment, frame by frame.
//!
//! Does not find missing segments; `numbers` does.

use std::io;

use uuid::Uuid;

use super::{Coverage, Damage, Gap, Lost, Repair, Survey};
use crate::mail::envelope::{Envelope, Recipient, RecipientTarget};
use crate::store::embedded::frame::{self, FrameHeader, FrameRow};
use crate::store::embedded::journal_writer::StateRecord;
use crate::store::embedded::segment::{SegmentHeader, SegmentKind, SegmentWalk, WalkStep};
use crate::store::embedded::stored_job::StoredJob;
use crate::store::error::OpenError;
use crate::store::fact::Fact;
use crate::store::id::MailId;

/// The maximum number of names for one damage.
const ABOUT_MAX: usize = 10;

impl Survey {
    /// Reads all segments of a kind.
    pub(super) fn read_kind(
        &mut self,
        kind: SegmentKind,
        numbers: &[u64],
    ) -> Result<(), OpenError> {
        for (nth, &number) in numbers.iter().enumerate() {
            let covered = self.coverage(kind).to;
            let header = self.header(kind, number, covered)?;
            let first_seq = header.map_or(covered, |h| h.first_seq);
            let coverage = self.coverage(kind);
            if coverage.first.is_none() {
                coverage.first = Some((number, first_seq));
            } else if coverage.newest + 1 < number {
                coverage.gaps.push(Gap {
                    first: coverage.newest + 1,
                    last: number - 1,
                    from: covered,
                    to: first_seq.saturating_sub(1),
                });
            }
            coverage.newest = number;
            coverage.to = coverage.to.max(first_seq);
            let Some(header) = header else {
                continue;
            };
            coverage.headers.push(header);
            self.segments += 1;
            let is_last = nth + 1 == numbers.len();
            let path = self.path(kind, number);
            self.read_segment(header, is_last)
                .map_err(|e| OpenError::io(&path, e))?;
        }
        Ok(())
    }

    /// The header of a segment, rebuilt from its frames if it is damaged; `None` if that is impossible.
    fn header(
        &mut self,
        kind: SegmentKind,
        number: u64,
        covered: u64,
    ) -> Result<Option<SegmentHeader>, OpenError> {
        let path = self.path(kind, number);
        match SegmentHeader::read(&path, kind, number) {
            Ok(header) => return Ok(Some(header)),
            Err(OpenError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let unread = |e| OpenError::io(&path, e);
        let recovered = SegmentHeader::recover(&path, kind, number, covered).map_err(unread)?;
        let bytes = path.metadata().map_err(unread)?.len();
        let damage = Damage {
            kind,
            segment: number,
            from: 0,
            to: bytes.min(64),
            front_at: 0,
            why: "the header's checksum is wrong",
            lost: Lost::Nothing,
            repair: Repair::Replace { first_seq: covered },
            is_certain: true,
            about: Vec::new(),
            mails: Vec::new(),
            jobs: Vec::new(),
        };
        match recovered {
            Some(header) => self.add(Damage {
                repair: Repair::Header(header.encode()),
                ..damage
            }),
            None => self.add(Damage {
                to: bytes,
                why: "nothing of this file can be read",
                // `numbers` sets the end when all segments are read.
                lost: Lost::Numbers(covered, covered, 0),
                ..damage
            }),
        }
        Ok(recovered)
    }

    fn read_segment(&mut self, header: SegmentHeader, is_last: bool) -> io::Result<()> {
        let (kind, number) = (header.kind, header.number);
        let mut walk = SegmentWalk::begin(header, &self.path(kind, number))?;
        self.bytes += walk.file_bytes();
        let mut next = header.first_seq;
        loop {
            let before = (walk.at(), walk.batch());
            match walk.next(false)? {
                WalkStep::Frame(rows) => {
                    let bad = self.read_rows(&mut walk, &rows)?;
                    let is_short = bad.iter().any(|(_, crc)| crc.is_none());
                    if is_short || (!bad.is_empty() && is_last && is_at_end(&mut walk)?) {
                        // The end of the frame is missing, or was never acknowledged.
                        walk.skip_to(before.0, before.1);
                        self.end_of_frames(&mut walk, next, is_last)?;
                        break;
                    }
                    next = rows.last().map_or(next, |row| row.seq + 1);
                    self.add_bad_bodies(&mut walk, &rows, bad)?;
                }
                WalkStep::Seal(to) => {
                    next = next.max(to);
                    break;
                }
                WalkStep::End => {
                    let Some((to, stamp)) = walk.later_frame()? else {
                        self.end_of_frames(&mut walk, next, is_last)?;
                        break;
                    };
                    let later = (to, stamp.batch, stamp.first_seq);
                    let damage = damaged_frames(&mut walk, next, later)?;
                    self.add(damage);
                    walk.skip_to(to, stamp.batch);
                }
            }
        }
        self.last_seq = self.last_seq.max(next.saturating_sub(1));
        let coverage: &mut Coverage = self.coverage(kind);
        coverage.to = coverage.to.max(next);
        Ok(())
    }

    /// Handles the end of the frames without a seal. In the last segment this may be an unfinished write, or
    /// the segment was in use.
    fn end_of_frames(
        &mut self,
        walk: &mut SegmentWalk,
        next: u64,
        is_last: bool,
    ) -> io::Result<()> {
        let damage = Damage {
            to: walk.file_bytes().max(walk.at()),
            why: "the segment ends before its end",
            lost: Lost::Numbers(next, next, 0),
            repair: Repair::Seal {
                batch: walk.batch(),
                next_seq: next,
            },
            ..plain(walk, walk.at())
        };
        if !is_last {
            self.add(damage);
            return Ok(());
        }
        if walk.is_torn()? {
            self.notes.push(format!(
                "{}: at byte {}: a write was cut short before it was acknowledged; the next start cuts it",
                walk.path.display(),
                walk.at()
            ));
        }
        self.coverage(walk.header.kind).open_end = Some(Damage {
            lost: Lost::Nothing,
            ..damage
        });
        Ok(())
    }

    /// Checks the bodies of a frame with an intact front. Returns the rows with damaged bodies, each with the
    /// checksum of the bytes on disk.
    fn read_rows(
        &mut self,
        walk: &mut SegmentWalk,
        rows: &[FrameRow],
    ) -> io::Result<Vec<(usize, Option<u32>)>> {
        let mut bad = Vec::new();
        for (nth, row) in rows.iter().enumerate() {
            match walk.body_crc(row.span)? {
                Some(crc) if crc == row.span.body_crc => {
                    self.records += 1;
                    self.read_totals(walk.header.kind, row);
                }
                crc => bad.push((nth, crc)),
            }
        }
        Ok(bad)
    }

    fn add_bad_bodies(
        &mut self,
        walk: &mut SegmentWalk,
        rows: &[FrameRow],
        bad: Vec<(usize, Option<u32>)>,
    ) -> io::Result<()> {
        let Some((at, mut front)) = walk.front_of(rows)?.filter(|_| !bad.is_empty()) else {
            return Ok(());
        };
        let row = |(nth, _): &(usize, Option<u32>)| &rows[*nth];
        let mut damage = Damage {
            from: bad.iter().map(|b| row(b).span.body_at).min().unwrap_or(at),
            to: bad.iter().map(|b| end_of(row(b))).max().unwrap_or(at),
            front_at: at,
            why: "the bytes of a record are not those that were written",
            lost: Lost::Records(bad.iter().map(|b| row(b).seq).collect()),
            is_certain: false,
            ..plain(walk, at)
        };
        for (nth, crc) in bad {
            let crc = crc.unwrap_or_default();
            void(&mut front, at, (nth, &rows[nth]), walk.header.kind, crc);
            name(&mut damage, &rows[nth], true);
        }
        frame::prove(&mut front);
        damage.repair = Repair::Front(front);
        self.add(damage);
        Ok(())
    }

    fn read_totals(&mut self, kind: SegmentKind, row: &FrameRow) {
        if kind == SegmentKind::State
            && row.head.starts_with(b"{\"totals\"")
            && let Ok(StateRecord::Totals(totals)) = serde_json::from_slice(&row.head)
        {
            self.totals = totals;
        }
    }
}

/// The damage between the place where the frames end and the next frame, which is at `to`.
fn damaged_frames(
    walk: &mut SegmentWalk,
    next: u64,
    (to, batch, first_seq): (u64, u64, u64),
) -> io::Result<Damage> {
    let (from, expected) = (walk.at(), walk.batch());
    let frames = batch - expected;
    let damage = Damage {
        to,
        why: "a checksum is wrong",
        lost: Lost::Numbers(
            next,
            first_seq.saturating_sub(1),
            first_seq.saturating_sub(next),
        ),
        repair: Repair::Void {
            batch: expected,
            frames,
        },
        ..plain(walk, from)
    };
    if frames != 1 {
        return Ok(damage);
    }
    let Some(front) = walk.unproven_front(to)? else {
        return Ok(damage);
    };
    if let Some(repaired) = frame::with_bit_repaired(&front)
        && is_whole(walk, &repaired, from)
    {
        return Ok(Damage {
            why: "one bit of a checksummed front is wrong, and can be turned back",
            lost: Lost::Nothing,
            repair: Repair::Front(repaired),
            ..damage
        });
    }
    salvaged(walk, damage, front, next, first_seq)
}

/// True if nothing follows the last frame that was read.
fn is_at_end(walk: &mut SegmentWalk) -> io::Result<bool> {
    let (at, batch) = (walk.at(), walk.batch());
    let ends = matches!(walk.next(false)?, WalkStep::End) && walk.later_frame()?.is_none();
    walk.skip_to(at, batch);
    Ok(ends)
}

/// True if the checksum of the front is right, and the checksums of all its heads too.
fn is_whole(walk: &SegmentWalk, front: &[u8], at: u64) -> bool {
    let Some(header) = FrameHeader::parse(front, walk.header.salt) else {
        return false;
    };
    let rows = header.rows(front, at);
    header.stamp.batch == walk.batch()
        && rows.is_some_and(|rows| {
            let mut heads = rows.iter();
            heads.all(|row| crc32fast::hash(&row.head) == row.span.head_crc)
        })
}

/// Keeps the records of a damaged front whose own checksums are right. If all heads are right, the damage is
/// in fields without a second checksum, and no record is kept.
fn salvaged(
    walk: &mut SegmentWalk,
    damage: Damage,
    mut front: Vec<u8>,
    next: u64,
    later: u64,
) -> io::Result<Damage> {
    let header = FrameHeader::parse_unproven(&front);
    let stamp = header.stamp;
    let Some(rows) = header.unproven_rows(&front, damage.from) else {
        return Ok(damage);
    };
    let fits = stamp.salt == walk.header.salt
        && stamp.batch == walk.batch()
        && stamp.first_seq >= next
        && stamp.first_seq.saturating_add(rows.len() as u64) <= later;
    let mut bad = Vec::new();
    for (nth, row) in rows.iter().enumerate() {
        let head_holds = crc32fast::hash(&row.head) == row.span.head_crc;
        let crc = walk.body_crc(row.span)?;
        if !head_holds || crc != Some(row.span.body_crc) {
            bad.push((nth, head_holds, crc));
        }
    }
    if !fits || bad.iter().all(|(_, head_holds, _)| *head_holds) {
        let mut damage = damage;
        for row in &rows {
            name(
                &mut damage,
                row,
                crc32fast::hash(&row.head) == row.span.head_crc,
            );
        }
        damage.jobs.clear();
        damage.mails.clear();
        return Ok(damage);
    }
    let mut damage = Damage {
        lost: Lost::Records(bad.iter().map(|(nth, _, _)| rows[*nth].seq).collect()),
        ..damage
    };
    for (nth, head_holds, crc) in bad {
        void(
            &mut front,
            damage.from,
            (nth, &rows[nth]),
            walk.header.kind,
            crc.unwrap_or_default(),
        );
        name(&mut damage, &rows[nth], head_holds);
    }
    frame::prove(&mut front);
    damage.repair = Repair::Front(front);
    Ok(damage)
}

fn plain(walk: &SegmentWalk, from: u64) -> Damage {
    Damage {
        kind: walk.header.kind,
        segment: walk.header.number,
        from,
        to: from,
        front_at: from,
        why: "",
        lost: Lost::Nothing,
        repair: Repair::Nothing,
        is_certain: true,
        about: Vec::new(),
        mails: Vec::new(),
        jobs: Vec::new(),
    }
}

fn end_of(row: &FrameRow) -> u64 {
    row.span.body_at + u64::from(row.span.body_bytes)
}

fn void(
    front: &mut [u8],
    at: u64,
    (nth, row): (usize, &FrameRow),
    kind: SegmentKind,
    body_crc: u32,
) {
    let word: &[u8] = match kind {
        SegmentKind::Mail => b"null",
        SegmentKind::State => b"\"void\"",
    };
    // A front is in memory, so its offsets fit.
    let head = usize::try_from(row.span.head_at - at).unwrap_or(usize::MAX);
    frame::void_record(front, nth, head, word, body_crc);
}

/// Adds the name of the record's mail, job or thread, if it can be read.
fn name(damage: &mut Damage, row: &FrameRow, head_holds: bool) {
    let told = match damage.kind {
        SegmentKind::Mail => {
            damage.mails.push(MailId(row.origin));
            name_of_mail(row)
        }
        SegmentKind::State if head_holds => name_of_fact(damage, row),
        SegmentKind::State => String::from_utf8_lossy(&row.head)
            .split_once("\"thread_id\":\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(thread, _)| format!("thread {thread}")),
    };
    if damage.about.len() < ABOUT_MAX {
        damage.about.extend(told);
    }
}

/// The name of a mail. A reply address is a secret of its thread, so the thread is named instead.
fn name_of_mail(row: &FrameRow) -> Option<String> {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&row.head) else {
        return Some(format!("mail {}", row.origin));
    };
    let target = |recipient: &Recipient| match &recipient.target {
        RecipientTarget::Mailbox(name) => format!("mailbox {name}"),
        RecipientTarget::Thread(claims) => match &claims.thread_id {
            Some(id) => format!("thread {id}"),
            None => format!("thread {}", Uuid::from_bytes(claims.thread.0).hyphenated()),
        },
        RecipientTarget::Return(job) => format!("the return path of job {job}"),
    };
    let targets: Vec<String> = envelope.recipients.iter().take(3).map(target).collect();
    let sender = envelope.sender.map_or_else(String::new, |s| s.to_string());
    Some(format!(
        "mail {} from <{sender}> to {}",
        row.origin,
        targets.join(", ")
    ))
}

fn name_of_fact(damage: &mut Damage, row: &FrameRow) -> Option<String> {
    let job = match serde_json::from_slice(&row.head).ok()? {
        StateRecord::Fact(Fact::Enqueued(job)) => StoredJob::new(*job, row.origin),
        StateRecord::Job(stored) => *stored,
        _ => return None,
    };
    let (id, to) = (job.record.job.id, job.record.job.recipient.to_string());
    damage.jobs.push(job);
    Some(format!("job {id} to {to}"))
}
