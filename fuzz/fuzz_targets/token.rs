//! Arbitrary text as an address with a token: only minted tokens verify.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::clock::Timestamp;
use postern::mail::address::Address;
use postern::mail::token::KeyRing;

fuzz_target!(|text: &str| {
    let secret = b"a secret made for tests, worth nothing elsewhere".to_vec();
    let Ok(keys) = KeyRing::new(vec![(0, secret)], KeyRing::LIFETIME) else {
        unreachable!("the secret is long enough");
    };
    if let Ok(address) = Address::parse(text) {
        assert!(keys.verify(&address, Timestamp::from_secs(1_800_000_000)).is_err());
        assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(&address));
    }
});
