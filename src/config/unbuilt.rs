//! Owns the keys of the doors this version does not have: outgoing mail and IMAP.
//!
//! Does not bring anything about. The keys are read and judged, so that a faulty one is found now, and
//! each table that says something is named in a warning: nothing is ignored in silence.

use std::time::Duration;

use super::reader::Section;
use crate::mail::address::{Address, Domain};

const PORT_MAX: u64 = 65_535;

/// Reads the two tables.
pub(super) fn read(root: &mut Section<'_>) {
    outbound(root.table("outbound"));
    imap(root.table("imap"));
}

fn outbound(mut section: Section<'_>) {
    warn(&section, "outgoing mail");
    section.switch("enabled", false);
    section.parsed("from", Address::parse);
    section.text_maybe("from_name");
    section.parsed("host", Domain::parse);
    section.number("port", 587, 1..=PORT_MAX);
    section.text_maybe("user");
    section.secret("password");
    section.end();
}

fn imap(mut section: Section<'_>) {
    warn(&section, "taking mail from an IMAP mailbox");
    section.parsed("host", Domain::parse);
    section.number("port", 993, 1..=PORT_MAX);
    section.text_maybe("user");
    section.secret("password");
    let bounds = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    section.duration("poll_interval", Duration::from_secs(60), bounds);
    section.end();
}

fn warn(section: &Section<'_>, what: &str) {
    for key in section.said() {
        section.warn(
            &key,
            format!("no effect: {what} is not part of this version"),
        );
    }
}
