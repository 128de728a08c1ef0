//! Owns the location of a record in the journal, and reading it from there.
//!
//! Does not write.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::frame::{RecordSpan, u32_at, u64_at};
use super::segment::SegmentKind;

/// The location of a record in the journal: a span and the number of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordLocation {
    pub(super) segment: u64,
    pub(super) head_at: u64,
    pub(super) head_bytes: u32,
    pub(super) head_crc: u32,
    pub(super) body_at: u64,
    pub(super) body_bytes: u32,
    pub(super) body_crc: u32,
}

impl RecordLocation {
    pub(super) const fn new(segment: u64, span: RecordSpan) -> Self {
        Self {
            segment,
            head_at: span.head_at,
            head_bytes: span.head_bytes,
            head_crc: span.head_crc,
            body_at: span.body_at,
            body_bytes: span.body_bytes,
            body_crc: span.body_crc,
        }
    }
}

impl RecordLocation {
    /// Offset of the end of the record's parts.
    pub(super) fn end(self) -> u64 {
        let head = self.head_at + u64::from(self.head_bytes);
        head.max(self.body_at + u64::from(self.body_bytes))
    }

    /// The bytes of a location of which only the head is needed.
    pub(super) fn encode_head(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.head_at.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[20..].copy_from_slice(&self.head_crc.to_le_bytes());
        bytes
    }

    /// Parses the output of [`RecordLocation::encode_head`].
    pub(super) fn decode_head(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 24).then(|| Self {
            segment: u64_at(bytes, 0),
            head_at: u64_at(bytes, 8),
            head_bytes: u32_at(bytes, 16),
            head_crc: u32_at(bytes, 20),
            body_at: 0,
            body_bytes: 0,
            body_crc: 0,
        })
    }

    /// The bytes of a location of which only the body is needed.
    pub(super) fn encode_body(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.body_at.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[20..].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes
    }

    /// Parses the output of [`RecordLocation::encode_body`].
    pub(super) fn decode_body(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 24).then(|| Self {
            segment: u64_at(bytes, 0),
            head_at: 0,
            head_bytes: 0,
            head_crc: 0,
            body_at: u64_at(bytes, 8),
            body_bytes: u32_at(bytes, 16),
            body_crc: u32_at(bytes, 20),
        })
    }
}

/// Reads records of one journal by location, from any thread.
#[derive(Clone, Debug)]
pub(super) struct RecordReader {
    folder: PathBuf,
    kind: SegmentKind,
    disk: Disk,
}

impl RecordReader {
    pub(super) const fn new(folder: PathBuf, kind: SegmentKind, disk: Disk) -> Self {
        Self { folder, kind, disk }
    }

    /// The body of the record at `location`; an error of kind `InvalidData` if it differs from what was
    /// written.
    pub(super) fn body(&self, location: RecordLocation) -> io::Result<Bytes> {
        let bytes = self.read(location, location.body_at, location.body_bytes)?;
        if crc32fast::hash(&bytes) != location.body_crc {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(bytes.into())
    }

    /// The head of the record at `location`; an error of kind `InvalidData` as for bodies.
    pub(super) fn head(&self, location: RecordLocation) -> io::Result<Vec<u8>> {
        let bytes = self.read(location, location.head_at, location.head_bytes)?;
        if crc32fast::hash(&bytes) != location.head_crc {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(bytes)
    }

    fn read(&self, location: RecordLocation, at: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let path = self.folder.join(self.kind.file_name(location.segment));
        self.disk.read(&path, at, bytes)
    }
}
