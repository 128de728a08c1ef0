//! Arbitrary octets as a request to every provider's adapter: no panic.
//!
//! The first octet selects one of the providers and modes of the tests, whose kits sign the request, so
//! that all decoders are reached. `tests/corpus/webhook` is an initial corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/it/webhook/body.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod body;
#[path = "../../tests/it/webhook/feed.rs"]
mod feed;
#[path = "../../tests/it/webhook/kinds.rs"]
mod kinds;
#[path = "../../tests/it/webhook/kit.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod kit;
#[path = "../../tests/it/webhook/post.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod post;

use post::Post;

fuzz_target!(|octets: &[u8]| {
    feed::feed(octets);
});
