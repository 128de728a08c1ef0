//! Owns the keys of the doors this version does not have: IMAP.
//!
//! Does not bring anything about. The keys are read and judged, so that a faulty one is found now, and
//! each key that says something is named in a warning: nothing is ignored in silence.

use std::time::Duration;

use super::reader::Section;
use crate::mail::address::Domain;

const PORT_MAX: u64 = 65_535;

/// Reads the table.
pub(super) fn read(root: &mut Section<'_>) {
    imap(root.table("imap"));
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
