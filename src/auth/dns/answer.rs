//! Owns DNS questions and answers as plain values.
//!
//! Does not make queries.

use std::net::IpAddr;
use std::sync::Arc;

use mail_auth::hickory_resolver::lookup::Lookup;
use mail_auth::hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{DnsFailure, LABEL_BYTES_MAX, NAME_BYTES_MAX};

/// A question: a record type, and a lower-case name without trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DnsQuery {
    pub(super) query_type: QueryType,
    pub(super) name: String,
}

impl DnsQuery {
    pub(super) fn is_name(&self) -> bool {
        let is_label = |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len());
        self.name.len() <= NAME_BYTES_MAX && self.name.split('.').all(is_label)
    }

    pub(super) fn wire_name(&self) -> Result<Name, DnsFailure> {
        let labels = self.name.split('.').map(str::as_bytes);
        Name::from_labels(labels).map_err(|error| DnsFailure(error.to_string().into()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum QueryType {
    A,
    Aaaa,
    Mx,
    Ptr,
    Txt,
}

impl QueryType {
    pub(super) const fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Mx => RecordType::MX,
            Self::Ptr => RecordType::PTR,
            Self::Txt => RecordType::TXT,
        }
    }
}

/// The records of a type at a name; none if the answer is void.
#[derive(Clone, Debug)]
pub(in crate::auth) struct DnsAnswer {
    /// True if the name exists, perhaps only with records of other types.
    pub(in crate::auth) is_name_known: bool,
    pub(super) records: Arc<[DnsRecord]>,
}

impl DnsAnswer {
    /// True if there are no records (RFC 7208 section 4.6.4).
    pub(in crate::auth) fn is_void(&self) -> bool {
        self.records.is_empty()
    }

    pub(in crate::auth) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().filter_map(|record| match record {
            DnsRecord::Ip(ip) => Some(*ip),
            _ => None,
        })
    }

    pub(in crate::auth) fn host_names(&self) -> impl Iterator<Item = &str> {
        self.records.iter().filter_map(|record| match record {
            DnsRecord::Host(_, name) => Some(name.as_str()),
            _ => None,
        })
    }

    pub(in crate::auth) fn text(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().filter_map(|record| match record {
            DnsRecord::Text(text) => Some(text.as_slice()),
            _ => None,
        })
    }

    pub(super) fn of(lookup: &Lookup, kind: QueryType) -> (Self, u64) {
        let mut records: Vec<DnsRecord> = lookup
            .answers()
            .iter()
            .filter_map(|record| DnsRecord::of(&record.data, kind))
            .collect();
        records.sort_by_key(|record| match record {
            DnsRecord::Host(preference, _) => *preference,
            _ => 0,
        });
        let ttl = lookup.answers().iter().map(|record| record.ttl).min();
        let answer = Self {
            is_name_known: true,
            records: records.into(),
        };
        (answer, ttl.unwrap_or_default().into())
    }

    pub(super) fn byte_weight(&self) -> usize {
        let of_record = |record: &DnsRecord| match record {
            DnsRecord::Ip(_) => 0,
            DnsRecord::Host(_, name) => name.len(),
            DnsRecord::Text(text) => text.len(),
        };
        self.records
            .iter()
            .map(|record| size_of::<DnsRecord>() + of_record(record))
            .sum()
    }
}

#[derive(Debug)]
pub(super) enum DnsRecord {
    Ip(IpAddr),
    /// An exchanger with its preference, or the name of an address.
    Host(u16, String),
    Text(Vec<u8>),
}

impl DnsRecord {
    fn of(data: &RData, kind: QueryType) -> Option<Self> {
        match (data, kind) {
            (RData::A(a), QueryType::A) => Some(Self::Ip(a.0.into())),
            (RData::AAAA(aaaa), QueryType::Aaaa) => Some(Self::Ip(aaaa.0.into())),
            (RData::MX(mx), QueryType::Mx) => {
                Some(Self::Host(mx.preference, text_of(&mx.exchange)?))
            }
            (RData::PTR(ptr), QueryType::Ptr) => Some(Self::Host(0, text_of(&ptr.0)?)),
            (RData::TXT(txt), QueryType::Txt) => Some(Self::Text(txt.txt_data.concat())),
            _ => None,
        }
    }
}

/// A name as text, lower-cased, without trailing dot and escapes; `None` if a label has a character that
/// would need an escape.
fn text_of(name: &Name) -> Option<String> {
    let mut labels = Vec::new();
    for label in name.iter() {
        let label = str::from_utf8(label).ok()?;
        if label.contains('.') {
            return None;
        }
        labels.push(label.to_ascii_lowercase());
    }
    Some(labels.join("."))
}
