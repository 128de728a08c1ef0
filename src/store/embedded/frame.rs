//! Owns the on-disk format of a batch: one frame with one checksum for all its records.
//!
//! Does not read or write files.
//!
//! ```text
//! opening, 48 bytes   magic, count, salt, batch, first seq, lengths, flags, crc32
//! rows, 24 bytes each origin, head length, body length, body crc32, head crc32
//! heads               one after another
//! bodies              one after another, then zeros to a multiple of ALIGN
//! ```
//! The opening's checksum covers opening, rows and heads; each head and body has its own too, so that a
//! record can be read alone and a scan need not read bodies. All numbers are little-endian.

use bytes::Bytes;

/// The alignment of frames in bytes, which makes searching for one fast.
pub(super) const ALIGN: u64 = 16;
/// Bytes of a frame before its rows.
pub(super) const FRAME_HEADER_BYTES: usize = 48;
/// The largest size of a record in bytes, head and body; the lengths in a frame have 32 bits.
pub(super) const RECORD_BYTES_MAX: usize = 512 << 20;
const ROW_BYTES: usize = 24;
const MAGIC: [u8; 4] = *b"PsBa";
const FLAG_SEAL: u32 = 1;

/// A record that is not written yet.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The record's number when it was first written; 0 for the first time.
    pub(super) origin: u64,
    /// The head, which every replay reads: it must be small.
    pub(super) head: Vec<u8>,
    /// The body, which is read only on request.
    pub(super) body: Bytes,
    body_crc: u32,
}

impl Record {
    /// A record written for the first time.
    pub(super) fn new(head: Vec<u8>, body: Bytes) -> Self {
        let body_crc = crc32fast::hash(&body);
        Self {
            origin: 0,
            head,
            body,
            body_crc,
        }
    }

    /// A copy of a record, written again later in the journal.
    pub(super) fn relocated(origin: u64, head: Vec<u8>, body: Bytes) -> Self {
        Self {
            origin,
            ..Self::new(head, body)
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// A record as found in a segment.
#[derive(Clone, Debug)]
pub(super) struct FrameRow {
    /// The record's own number.
    pub(super) seq: u64,
    /// The number of the first copy: equal to `seq` unless the record was relocated here.
    pub(super) origin: u64,
    pub(super) head: Vec<u8>,
    pub(super) span: RecordSpan,
}

impl FrameRow {
    /// True if this record is a copy of an earlier one.
    pub(super) const fn is_relocated(&self) -> bool {
        self.seq != self.origin
    }
}

/// The position of a record's parts in a segment. It is not a `RecordLocation`, because a frame does not know
/// the number of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordSpan {
    pub(super) head_at: u64,
    pub(super) head_bytes: u32,
    pub(super) head_crc: u32,
    pub(super) body_at: u64,
    pub(super) body_bytes: u32,
    pub(super) body_crc: u32,
}

/// The values that bind a frame to its place: the salt of the segment's life, the index of the frame in it,
/// the number of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameStamp {
    pub(super) salt: u64,
    pub(super) batch: u64,
    pub(super) first_seq: u64,
}

/// The first bytes of a frame, before the checksum is verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHeader {
    pub(super) stamp: FrameStamp,
    pub(super) seals: bool,
    count: u32,
    heads_bytes: u32,
    bodies_bytes: u32,
    crc: u32,
}

impl FrameHeader {
    /// Parses an opening if `bytes` begin like a frame of the segment life `salt`.
    pub(super) fn parse(bytes: &[u8], salt: u64) -> Option<Self> {
        let begins = has_magic(bytes, salt) && bytes.len() >= FRAME_HEADER_BYTES;
        begins.then(|| Self::parse_unproven(bytes))
    }

    /// Reads [`FRAME_HEADER_BYTES`] bytes as an opening, without any check.
    pub(super) fn parse_unproven(bytes: &[u8]) -> Self {
        Self {
            count: u32_at(bytes, 4),
            stamp: FrameStamp {
                salt: u64_at(bytes, 8),
                batch: u64_at(bytes, 16),
                first_seq: u64_at(bytes, 24),
            },
            heads_bytes: u32_at(bytes, 32),
            bodies_bytes: u32_at(bytes, 36),
            seals: u32_at(bytes, 40) & FLAG_SEAL != 0,
            crc: u32_at(bytes, 44),
        }
    }

    /// Bytes of opening, rows and heads.
    pub(super) const fn front_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + self.count as u64 * ROW_BYTES as u64 + self.heads_bytes as u64
    }

    /// Bytes of the whole frame with its padding.
    pub(super) const fn frame_bytes(&self) -> u64 {
        (self.front_bytes() + self.bodies_bytes as u64).next_multiple_of(ALIGN)
    }

    /// Verifies the front of the frame at `at`, and parses its rows.
    pub(super) fn rows(&self, front: &[u8], at: u64) -> Option<Vec<FrameRow>> {
        if front.len() as u64 != self.front_bytes() || self.crc != front_crc(front) {
            return None;
        }
        self.unproven_rows(front, at)
    }

    /// Reads the rows of the front of the frame at `at`; `None` if its lengths do not fit.
    pub(super) fn unproven_rows(&self, front: &[u8], at: u64) -> Option<Vec<FrameRow>> {
        if front.len() as u64 != self.front_bytes() {
            return None;
        }
        let rows = self.count as usize;
        let mut head = FRAME_HEADER_BYTES + rows * ROW_BYTES;
        let mut body = self.front_bytes();
        let mut found = Vec::with_capacity(rows);
        for (nth, row) in front[FRAME_HEADER_BYTES..head]
            .chunks_exact(ROW_BYTES)
            .enumerate()
        {
            let seq = self.stamp.first_seq.saturating_add(nth as u64);
            let (head_bytes, body_bytes) = (u32_at(row, 8), u32_at(row, 12));
            let bytes = front.get(head..head + head_bytes as usize)?;
            found.push(FrameRow {
                seq,
                origin: Some(u64_at(row, 0)).filter(|&o| o != 0).unwrap_or(seq),
                head: bytes.to_vec(),
                span: RecordSpan {
                    head_at: at + head as u64,
                    head_bytes,
                    head_crc: u32_at(row, 20),
                    body_at: at + body,
                    body_bytes,
                    body_crc: u32_at(row, 16),
                },
            });
            head += head_bytes as usize;
            body += u64::from(body_bytes);
        }
        Some(found)
    }
}

/// True if `bytes` begin like a frame of the segment life `salt`.
pub(super) fn has_magic(bytes: &[u8], salt: u64) -> bool {
    bytes.len() >= 16 && bytes[..4] == MAGIC && u64_at(bytes, 8) == salt
}

/// Offset and length of the front that has these rows.
pub(super) fn front_place(rows: &[FrameRow]) -> Option<(u64, u64)> {
    let (first, last) = (rows.first()?, rows.last()?);
    let before = (FRAME_HEADER_BYTES + rows.len() * ROW_BYTES) as u64;
    let at = first.span.head_at.checked_sub(before)?;
    let end = last.span.head_at + u64::from(last.span.head_bytes);
    Some((at, end - at))
}

/// A frame without records that fills `bytes` bytes, which is at least [`FRAME_HEADER_BYTES`].
pub(super) fn encode_void(stamp: FrameStamp, bytes: u64) -> Vec<u8> {
    let mut out = encode_front(stamp, &[]);
    let filler = bytes.saturating_sub(FRAME_HEADER_BYTES as u64);
    let filler = u32::try_from(filler).unwrap_or(u32::MAX);
    out[36..40].copy_from_slice(&filler.to_le_bytes());
    prove(&mut out);
    out
}

/// Makes a record of a front void: its head contains only `word`, and the checksum of its body is that of the
/// bytes on disk. No record moves. The caller calls [`prove`] after the last change.
pub(super) fn void_record(front: &mut [u8], nth: usize, head: usize, word: &[u8], body_crc: u32) {
    let row = FRAME_HEADER_BYTES + nth * ROW_BYTES;
    let bytes = u32_at(front, row + 8) as usize;
    let text = &mut front[head..head + bytes];
    // White space after JSON has no meaning.
    text.fill(b' ');
    let kept = word.len().min(bytes);
    text[..kept].copy_from_slice(&word[..kept]);
    let head_crc = crc32fast::hash(text);
    front[row..row + 8].fill(0);
    front[row + 16..row + 20].copy_from_slice(&body_crc.to_le_bytes());
    front[row + 20..row + 24].copy_from_slice(&head_crc.to_le_bytes());
}

/// Sets the checksum of a front.
pub(super) fn prove(front: &mut [u8]) {
    let crc = front_crc(front);
    front[44..48].copy_from_slice(&crc.to_le_bytes());
}

/// The front with its single wrong bit corrected; `None` if not exactly one bit is wrong.
///
/// A CRC is linear: the effect of one wrong bit depends only on the distance from the end, and each distance
/// has another effect.
pub(super) fn with_bit_repaired(front: &[u8]) -> Option<Vec<u8>> {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    const FRONT_BYTES_MAX: usize = 1 << 20;
    if front.len() < FRAME_HEADER_BYTES || front.len() > FRONT_BYTES_MAX {
        return None;
    }
    let mut repaired = front.to_vec();
    let wrong = front_crc(front) ^ u32_at(front, 44);
    if wrong.is_power_of_two() {
        prove(&mut repaired);
        return Some(repaired);
    }
    let bits = (front.len() - 4) * 8;
    let mut effect = POLYNOMIAL;
    for bit in (0..bits).rev() {
        if effect == wrong {
            // The checksum does not cover its own four bytes.
            let byte = if bit / 8 < 44 { bit / 8 } else { bit / 8 + 4 };
            repaired[byte] ^= 1 << (bit % 8);
            return Some(repaired);
        }
        effect = effect >> 1 ^ if effect & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

/// Opening, rows and heads of a frame with these records; their bodies follow it on disk.
pub(super) fn encode_front(stamp: FrameStamp, records: &[Record]) -> Vec<u8> {
    encode_front_with(stamp, records, 0)
}

/// The frame that marks the end of the segment.
pub(super) fn encode_seal(stamp: FrameStamp) -> Vec<u8> {
    encode_front_with(stamp, &[], FLAG_SEAL)
}

/// Bytes on disk of a frame with these records.
pub(super) fn frame_bytes(records: &[Record]) -> u64 {
    let rows: usize = records.iter().map(|r| ROW_BYTES + r.bytes()).sum();
    ((FRAME_HEADER_BYTES + rows) as u64).next_multiple_of(ALIGN)
}

/// The positions of the parts of `records` in a frame at `at`.
pub(super) fn spans(records: &[Record], at: u64) -> Vec<RecordSpan> {
    let heads: u64 = records.iter().map(|r| r.head.len() as u64).sum();
    let mut head_at = at + (FRAME_HEADER_BYTES + records.len() * ROW_BYTES) as u64;
    let mut body_at = head_at + heads;
    let location = |record: &Record| {
        let span = RecordSpan {
            head_at,
            head_bytes: to_u32(record.head.len()),
            head_crc: crc32fast::hash(&record.head),
            body_at,
            body_bytes: to_u32(record.body.len()),
            body_crc: record.body_crc,
        };
        head_at += u64::from(span.head_bytes);
        body_at += u64::from(span.body_bytes);
        span
    };
    records.iter().map(location).collect()
}

fn encode_front_with(stamp: FrameStamp, records: &[Record], flags: u32) -> Vec<u8> {
    let heads: usize = records.iter().map(|r| r.head.len()).sum();
    let bodies: usize = records.iter().map(|r| r.body.len()).sum();
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + records.len() * ROW_BYTES + heads);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&to_u32(records.len()).to_le_bytes());
    out.extend_from_slice(&stamp.salt.to_le_bytes());
    out.extend_from_slice(&stamp.batch.to_le_bytes());
    out.extend_from_slice(&stamp.first_seq.to_le_bytes());
    out.extend_from_slice(&to_u32(heads).to_le_bytes());
    out.extend_from_slice(&to_u32(bodies).to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for record in records {
        out.extend_from_slice(&record.origin.to_le_bytes());
        out.extend_from_slice(&to_u32(record.head.len()).to_le_bytes());
        out.extend_from_slice(&to_u32(record.body.len()).to_le_bytes());
        out.extend_from_slice(&record.body_crc.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&record.head).to_le_bytes());
    }
    for record in records {
        out.extend_from_slice(&record.head);
    }
    prove(&mut out);
    out
}

/// The checksum of a front, without its own four bytes.
fn front_crc(front: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&front[..44]);
    crc.update(&front[48..]);
    crc.finalize()
}

#[expect(
    clippy::expect_used,
    reason = "a batch is bounded far below 4 GiB by the writer, a record by RECORD_BYTES_MAX"
)]
fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a batch has less than 4 GiB")
}

/// The little-endian number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// The little-endian number at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: FrameStamp = FrameStamp {
        salt: 0x1122_3344_5566_7788,
        batch: 7,
        first_seq: 41,
    };

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
        proptest::collection::vec(
            (0u64..3, bytes(), bytes())
                .prop_map(|(origin, head, body)| Record::relocated(origin, head, body.into())),
            0..6,
        )
    }

    fn frame(records: &[Record]) -> Vec<u8> {
        let mut bytes = encode_front(STAMP, records);
        for record in records {
            bytes.extend_from_slice(&record.body);
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        bytes
    }

    fn parse(bytes: &[u8], at: u64) -> Option<Vec<FrameRow>> {
        let opening = FrameHeader::parse(bytes, STAMP.salt)?;
        let front = bytes.get(..usize::try_from(opening.front_bytes()).ok()?)?;
        opening.rows(front, at)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in records(), at in 0u64..1000) {
            let bytes = frame(&records);
            prop_assert_eq!(bytes.len() as u64, frame_bytes(&records));
            let rows = parse(&bytes, at).unwrap();
            prop_assert_eq!(rows.len(), records.len());
            let spans = spans(&records, at);
            for (nth, (row, record)) in rows.iter().zip(&records).enumerate() {
                prop_assert_eq!(row.seq, 41 + nth as u64);
                prop_assert_eq!(row.is_relocated(), record.origin != 0);
                prop_assert_eq!(&row.head, &record.head);
                prop_assert_eq!(row.span, spans[nth]);
                let body = usize::try_from(row.span.body_at - at).unwrap();
                prop_assert_eq!(&bytes[body..body + record.body.len()], &record.body[..]);
            }
        }

        #[test]
        fn every_changed_bit_in_the_front_is_detected(records in records(), bit in any::<prop::sample::Index>()) {
            let whole = encode_front(STAMP, &records);
            let mut bytes = whole.clone();
            let bit = bit.index(whole.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&bytes, 0).is_none());
        }

        #[test]
        fn noise_is_not_a_frame(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes, 0).is_none());
        }
    }

    #[test]
    fn one_wrong_bit_of_a_front_is_found() {
        let head = br#"{"a":"head of some length"}"#.to_vec();
        let records = [
            Record::new(head, Bytes::from_static(b"body")),
            Record::relocated(3, b"{}".to_vec(), Bytes::new()),
        ];
        let whole = encode_front(STAMP, &records);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                with_bit_repaired(&bytes).as_ref(),
                Some(&whole),
                "bit {bit}"
            );
        }
        let mut bytes = whole.clone();
        bytes[60] ^= 0x11;
        bytes[80] ^= 0x01;
        assert_ne!(with_bit_repaired(&bytes).as_ref(), Some(&whole));
    }

    #[test]
    fn a_frame_of_an_earlier_use_is_ignored() {
        let bytes = frame(&[Record::new(b"head".to_vec(), Bytes::new())]);
        assert!(FrameHeader::parse(&bytes, STAMP.salt).is_some());
        assert!(FrameHeader::parse(&bytes, STAMP.salt + 1).is_none());
    }
}
