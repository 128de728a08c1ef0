//! Any octets as the words of an IMAP server, whole and in pieces: no panic, the same either way, and
//! nothing that was not asked for.
//!
//! The first octet chooses the size of the pieces. `tests/corpus/imap` is a corpus to begin with. The
//! parser is no part of the library's face, so its files are taken as they are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::{clock, store};

#[path = "../../src/ingress/imap"]
mod imap {
    #[expect(dead_code, reason = "the door needs more of it")]
    mod dialogue;
    mod response;
    mod syntax;
    #[expect(dead_code, reason = "the door needs more of it")]
    mod transport;

    #[path = "tests/feed.rs"]
    mod feed;

    pub(super) fn feed(octets: &[u8]) {
        feed::feed(octets);
    }
}

fuzz_target!(|octets: &[u8]| {
    imap::feed(octets);
});
