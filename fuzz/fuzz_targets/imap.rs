//! Arbitrary octets as the data of an IMAP server, whole and in pieces: no panic, the same result for any
//! split, and no mail that was not requested.
//!
//! The first octet selects the size of the pieces. `tests/corpus/imap` is an initial corpus. The parser is
//! not public in the library, so its files are included.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::{client, clock, ingress, store};

#[path = "../../src/ingress/imap"]
mod imap {
    #[expect(dead_code, reason = "the door needs more of it")]
    mod client;
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
