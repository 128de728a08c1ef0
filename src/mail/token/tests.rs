use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64URL, BASE64URL_NOPAD};
use proptest::prelude::*;

use super::*;
use crate::mail::address::{Address, Domain};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";
const THREAD: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
const NOW: Timestamp = Timestamp::from_millis(1_769_903_999_042);
// Computed with Python's hmac, hashlib and base64, from the description of the scheme alone.
const V1: &str =
    "NmY5NjE5ZmYtOGI4Ni00ZDAxLWI0MmQtMDBjZjRmYzk2NGZmOjE3Njk5MDM5OTkwNDI6ZDkwOTgwYTEyY2MzYmE4Mw";
const V1_NO_UUID: &str = "dGlja2V0OjQyOjE3Njk5MDM5OTkwNDI6NjMxNTA0YmM3MTlhNDRhOQ";
const V2: &str = "enxzmgp7rode2anufuam6t6jmt7ws7uxp4dzf673opiznszlvxojwmyh6e";

fn ring_of(keys: &[(u8, &[u8])]) -> KeyRing {
    let keys = keys.iter().map(|(id, secret)| (*id, secret.to_vec()));
    KeyRing::new(keys.collect(), KeyRing::LIFETIME).unwrap()
}

fn ring() -> KeyRing {
    ring_of(&[(3, SECRET)])
}

fn inbox() -> Domain {
    Domain::parse("inbox.example.com").unwrap()
}

fn ann() -> Address {
    Address::parse("Ann@Example.com").unwrap()
}

fn at_inbox(local: &str) -> Address {
    Address::parse(&format!("{local}@inbox.example.com")).unwrap()
}

fn verified(local: &str) -> Result<Claims, TokenError> {
    ring().verify(&at_inbox(local), NOW)
}

#[test]
fn known_answers_are_minted_and_verified() {
    let (ring, inbox) = (ring(), inbox());
    assert_eq!(ring.mint(Format::V1, &inbox, THREAD, None, NOW), V1);
    assert_eq!(
        ring.mint(Format::V1, &inbox, "ticket:42", None, NOW),
        V1_NO_UUID
    );
    assert_eq!(ring.mint(Format::V2, &inbox, THREAD, Some(&ann()), NOW), V2);

    let claims = verified(&format!("reply+{V1_NO_UUID}")).unwrap();
    assert_eq!(claims.thread_id.as_deref(), Some("ticket:42"));
    assert_eq!(claims.issued_at, NOW);
    let claims = verified(&format!("reply+{V2}")).unwrap();
    assert_eq!(claims.thread.as_uuid_text(), THREAD);
    assert_eq!(claims.told_thread_id().as_deref(), Some(THREAD));
    assert_eq!(claims.issued_at.as_secs(), NOW.as_secs());
    assert!(ring.is_participant(&claims, &ann()));
    assert!(!ring.is_participant(&claims, &at_inbox("ann")));
}

#[test]
fn every_form_and_any_case_of_v2_is_one_token() {
    let whole = verified(&format!("reply+{V2}")).unwrap();
    for local in [
        V2.to_owned(),
        V2.to_uppercase(),
        format!("reply-{V2}"),
        format!("REPLY+{}", V2.to_uppercase()),
        format!("\"reply+{V2}\""),
    ] {
        assert_eq!(verified(&local).as_ref(), Ok(&whole), "{local}");
    }
    let shouted = Address::parse(&format!("{V2}@INBOX.Example.COM")).unwrap();
    assert_eq!(ring().verify(&shouted, NOW).as_ref(), Ok(&whole));
}

#[test]
fn v1_is_read_with_and_without_padding() {
    let bytes = BASE64URL_NOPAD.decode(V1.as_bytes()).unwrap();
    let padded = BASE64URL.encode(&bytes);
    assert!(padded.ends_with('='));
    assert_eq!(verified(V1), verified(&padded));
    assert_eq!(verified(&format!("reply+{padded}")), verified(V1));
    assert_eq!(digest(&padded), digest(V1));
}

#[test]
fn a_v1_token_that_lost_its_case_is_known_by_its_digest() {
    for token in [V1, V1_NO_UUID] {
        let whole = verified(token).unwrap();
        assert_eq!(whole.digest, digest(token));
        for text in [token.to_lowercase(), token.to_uppercase()] {
            let lost = Err(TokenError::CaseLost(whole.digest));
            assert_eq!(verified(&text), lost);
            assert_eq!(verified(&format!("reply-{text}")), lost);
        }
    }
}

#[test]
fn text_without_a_token_form_is_absent_or_forged() {
    for local in [
        "support",
        "reply",
        "replying",
        "no-reply",
        "a-very-long-mailbox-name-for-a-department-of-something",
        "bounce-1234567890-customer-relations-and-invoices-2026",
        &"a".repeat(58),
        &"7".repeat(58),
        &V2[1..],
    ] {
        assert_eq!(verified(local), Err(TokenError::Absent), "{local}");
    }
    let percent = V2.replacen('e', "%65", 1);
    let kelvin = format!("{}\u{212a}", &V2[..55]);
    for local in [
        "reply+garbage",
        "reply-to-all",
        "Reply+%41",
        &format!("reply+{percent}"),
        &format!("reply+{kelvin}"),
        &format!("reply+{}", &V2[..57]),
        &format!("reply+{V2}a"),
        &format!("reply+{}", V1.replacen("NmY", "NmZ", 1)),
    ] {
        assert_eq!(verified(local), Err(TokenError::Forged), "{local}");
    }
}

#[test]
fn the_kelvin_sign_is_not_a_k() {
    let token = (0..)
        .map(|n| ring().mint(Format::V2, &inbox(), &format!("t{n}"), None, NOW))
        .find(|token| token.contains('k'))
        .unwrap();
    assert!(verified(&token).is_ok());
    let kelvin = token.replacen('k', "\u{212a}", 1);
    assert_eq!(
        verified(&format!("reply+{kelvin}")),
        Err(TokenError::Forged)
    );
}

#[test]
fn a_token_is_valid_only_at_its_domain() {
    let elsewhere = Address::parse(&format!("{V2}@inbox.example.org")).unwrap();
    assert_eq!(ring().verify(&elsewhere, NOW), Err(TokenError::Forged));
    let idn = Domain::parse("bücher.example").unwrap();
    let token = ring().mint(Format::V2, &idn, THREAD, None, NOW);
    let ascii = Address::parse(&format!("{token}@xn--bcher-kva.example")).unwrap();
    assert!(ring().verify(&ascii, NOW).is_ok());
}

#[test]
fn rotated_keys_verify_and_foreign_keys_do_not() {
    let rotated = ring_of(&[(4, OTHER), (3, SECRET)]);
    for token in [V1, V2] {
        assert!(rotated.verify(&at_inbox(token), NOW).is_ok());
        let foreign = ring_of(&[(3, OTHER)]);
        assert_eq!(
            foreign.verify(&at_inbox(token), NOW),
            Err(TokenError::Forged)
        );
    }
    let renumbered = ring_of(&[(5, SECRET)]);
    assert_eq!(
        renumbered.verify(&at_inbox(V2), NOW),
        Err(TokenError::Forged)
    );
    let claims = rotated.verify(&at_inbox(V2), NOW).unwrap();
    assert!(rotated.is_participant(&claims, &ann()));
    let minted = rotated.mint(Format::V2, &inbox(), THREAD, None, NOW);
    assert_eq!(
        ring().verify(&at_inbox(&minted), NOW),
        Err(TokenError::Forged)
    );
}

#[test]
fn expiry_is_exact_to_the_second() {
    let second = Duration::from_secs(1);
    let last = NOW.plus(KeyRing::LIFETIME);
    for token in [V1, V2] {
        let at = |now| ring().verify(&at_inbox(token), now).map(|_| ());
        assert_eq!(at(last), Ok(()));
        assert_eq!(at(last.minus(second)), Ok(()));
        assert_eq!(at(last.plus(second)), Err(TokenError::Expired));
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(at(NOW.minus(day)), Ok(()));
        assert_eq!(at(NOW.minus(day + second)), Err(TokenError::NotYetValid));
    }
    let far = Timestamp::from_millis(u64::MAX);
    assert_eq!(ring().verify(&at_inbox(V2), far), Err(TokenError::Expired));
}

#[test]
fn reply_addresses_fit_a_local_part() {
    let v2 = ring().reply_address(Format::V2, &inbox(), THREAD, Some(&ann()), NOW);
    assert_eq!(v2.as_ref().unwrap().local(), format!("reply+{V2}"));
    assert_eq!(v2.unwrap().local().len(), 64);
    let v1 = ring().reply_address(Format::V1, &inbox(), THREAD, None, NOW);
    let v1 = v1.unwrap();
    assert_eq!(v1.local().len(), 96);
    assert!(ring().verify(&v1, NOW).is_ok());
    let long = "x".repeat(100);
    assert!(
        ring()
            .reply_address(Format::V1, &inbox(), &long, None, NOW)
            .is_err()
    );
}

#[test]
fn the_prefix_word_can_be_chosen() {
    let ring = ring().with_prefix("Re").unwrap();
    let address = ring.reply_address(Format::V2, &inbox(), THREAD, None, NOW);
    let address = address.unwrap();
    assert!(address.local().starts_with("re+"));
    assert!(ring.verify(&address, NOW).is_ok());
    assert_eq!(
        ring.verify(&at_inbox("reply+garbage"), NOW),
        Err(TokenError::Absent)
    );
    for word in ["", "answer", "re+", "ré"] {
        assert_eq!(
            self::ring().with_prefix(word).unwrap_err(),
            KeyError::Prefix(word.to_owned())
        );
    }
}

#[test]
fn tokens_are_found_among_header_addresses() {
    let bare = at_inbox(&V2.to_uppercase());
    let prefixed = at_inbox(&format!("reply+{V2}"));
    let forged = at_inbox("reply+nothing");
    let mailbox = at_inbox("support");
    let elsewhere = Address::parse(&format!("{V2}@example.org")).unwrap();
    let all = [&mailbox, &elsewhere, &bare, &prefixed, &forged];
    let ring = ring();
    let found = ring.find(&inbox(), all, NOW);
    let addresses: Vec<_> = found.iter().map(|found| found.address).collect();
    assert_eq!(addresses, [&bare, &forged]);
    assert!(found[0].outcome.is_ok());
    assert_eq!(found[1].outcome, Err(TokenError::Forged));
}

#[test]
fn weak_rings_are_refused() {
    let new = |keys: Vec<(u8, Vec<u8>)>| KeyRing::new(keys, KeyRing::LIFETIME).unwrap_err();
    assert_eq!(new(vec![]), KeyError::Empty);
    assert_eq!(new(vec![(16, SECRET.to_vec())]), KeyError::IdTooLarge(16));
    let twice = vec![(1, SECRET.to_vec()), (1, OTHER.to_vec())];
    assert_eq!(new(twice), KeyError::IdRepeated(1));
    let short = vec![(0, SECRET[..31].to_vec())];
    assert_eq!(new(short), KeyError::SecretTooShort { id: 0, bytes: 31 });
}

#[test]
fn debug_shows_neither_secret_nor_token() {
    let shown = format!("{:?} {:?}", ring(), verified(V2));
    assert!(shown.contains("key_ids: [3]"), "{shown}");
    let secret = str::from_utf8(SECRET).unwrap();
    for hidden in [secret, V2, V1, &format!("{SECRET:?}")] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn thread_keys_are_uuids_or_hashes() {
    assert_eq!(ThreadKey::of(THREAD).as_uuid_text(), THREAD);
    assert_eq!(ThreadKey::of(&THREAD.to_uppercase()), ThreadKey::of(THREAD));
    let simple = THREAD.replace('-', "");
    assert_ne!(ThreadKey::of(&simple), ThreadKey::of(THREAD));
    assert_eq!(String::from(ThreadKey::of(THREAD)), simple);
    assert_eq!(ThreadKey::try_from(simple), Ok(ThreadKey::of(THREAD)));
    for text in [THREAD.to_owned(), THREAD.replace('-', "").to_uppercase()] {
        assert_eq!(ThreadKey::try_from(text), Err(ThreadKeyError));
    }
    let claims = verified(V1).unwrap();
    let json = serde_json::to_string(&claims).unwrap();
    assert_eq!(serde_json::from_str::<Claims>(&json).unwrap(), claims);
}

/// A token that was minted before the hash of an id had a mark.
#[test]
fn an_old_token_of_a_hash_verifies() {
    let ring = ring();
    let marked = ring.mint(Format::V2, &inbox(), "77", None, NOW);
    let mut bytes = BASE32_NOPAD
        .decode(marked.to_uppercase().as_bytes())
        .unwrap();
    assert_eq!(bytes[0], 0x33);
    bytes[0] = 0x23;
    let label = b"postern reply token v2\0inbox.example.com\0".as_slice();
    let mac = crate::signature::HmacKey::new(SECRET).sign(&[label, &bytes[..25]]);
    bytes[25..].copy_from_slice(&mac.as_ref()[..11]);
    let claims = verified(&format!("reply+{}", BASE32_NOPAD.encode(&bytes))).unwrap();
    assert_eq!(
        (claims.thread, claims.is_hash),
        (ThreadKey::of("77"), false)
    );
    let json = serde_json::to_string(&claims).unwrap();
    assert!(!json.contains("is_hash"), "{json}");
    let claims = verified(&format!("reply+{marked}")).unwrap();
    assert!(claims.is_hash);
    let json = serde_json::to_string(&claims).unwrap();
    assert_eq!(serde_json::from_str::<Claims>(&json).unwrap(), claims);
}

#[test]
fn every_flipped_bit_is_refused() {
    let v2 = BASE32_NOPAD.decode(V2.to_uppercase().as_bytes()).unwrap();
    for bit in 0..v2.len() * 8 {
        let mut bytes = v2.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let text = BASE32_NOPAD.encode(&bytes);
        assert_eq!(
            verified(&format!("reply+{text}")),
            Err(TokenError::Forged),
            "bit {bit}"
        );
    }
    let v1 = BASE64URL_NOPAD.decode(V1.as_bytes()).unwrap();
    for bit in 0..v1.len() * 8 {
        let mut bytes = v1.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let text = BASE64URL_NOPAD.encode(&bytes);
        assert!(verified(&format!("reply+{text}")).is_err(), "bit {bit}");
    }
}

/// The number of cases of each property: many with `POSTERN_LONG_TESTS=1`.
fn cases() -> ProptestConfig {
    let is_long = std::env::var_os("POSTERN_LONG_TESTS").is_some();
    ProptestConfig::with_cases(if is_long { 100_000 } else { 256 })
}

#[test]
fn a_v1_token_that_could_be_a_v2_token_verifies() {
    // 58 characters, all of them base32 letters, and a first byte with the version of v2.
    let secret = [
        138, 7, 48, 92, 15, 50, 20, 29, 229, 0, 170, 77, 32, 144, 59, 244, 72, 150, 104, 38, 41,
        121, 128, 186, 165, 13, 40, 202, 99, 175, 119, 68, 123, 182,
    ];
    let ring = KeyRing::new(vec![(0, secret.to_vec())], KeyRing::LIFETIME).unwrap();
    let now = Timestamp::from_secs(2_308_807_793);
    let thread = "zAw_uagu3_qL";
    let address = ring
        .reply_address(Format::V1, &inbox(), thread, None, now)
        .unwrap();
    let claims = ring.verify(&address, now).unwrap();
    assert_eq!(claims.thread_id.as_deref(), Some(thread));
    let folded = at_inbox(&address.local().to_ascii_lowercase());
    assert_eq!(
        ring.verify(&folded, now),
        Err(TokenError::CaseLost(claims.digest))
    );
}

#[test]
fn a_token_from_the_future_is_not_valid_yet() {
    let (ring, inbox) = (ring(), inbox());
    for format in [Format::V1, Format::V2] {
        let address = ring
            .reply_address(format, &inbox, THREAD, None, NOW)
            .unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(ring.verify(&address, NOW.minus(day)).is_ok());
        let earlier = NOW.minus(2 * day);
        assert_eq!(ring.verify(&address, earlier), Err(TokenError::NotYetValid));
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn minted_tokens_verify(
        thread in "[a-zA-Z0-9:._-]{1,50}",
        secs in 1_000_000_000u64..u64::from(u32::MAX),
        secret in proptest::collection::vec(any::<u8>(), 32..80),
        id in 0u8..=15,
        bound: bool,
    ) {
        let ring = KeyRing::new(vec![(id, secret)], KeyRing::LIFETIME).unwrap();
        let now = Timestamp::from_secs(secs);
        let ann = ann();
        for format in [Format::V1, Format::V2] {
            let participant = bound.then_some(&ann);
            let address = ring.reply_address(format, &inbox(), &thread, participant, now).unwrap();
            let claims = ring.verify(&address, now).unwrap();
            prop_assert_eq!(claims.thread, ThreadKey::of(&thread));
            prop_assert_eq!(claims.issued_at, now);
            if format == Format::V1 {
                prop_assert_eq!(claims.thread_id.as_deref(), Some(thread.as_str()));
                let folded = at_inbox(&address.local().to_ascii_lowercase());
                prop_assert_eq!(ring.verify(&folded, now), Err(TokenError::CaseLost(claims.digest)));
            } else {
                prop_assert!(address.local().len() <= 64);
                prop_assert_eq!(claims.told_thread_id(), None);
                prop_assert_eq!(ring.is_participant(&claims, &ann), bound);
            }
        }
    }

    #[test]
    fn a_hash_is_never_told_as_an_id(thread in "[a-zA-Z0-9:._-]{1,50}", bits: [u8; 16], key_id in 0u8..=15) {
        let ring = ring_of(&[(key_id, SECRET)]);
        let told = |thread: &str| {
            let address = ring.reply_address(Format::V2, &inbox(), thread, None, NOW).unwrap();
            ring.verify(&address, NOW).unwrap().told_thread_id()
        };
        // One text in eight has such a hash: the next ones are tried until one is found.
        let lookalike = (0..1000)
            .map(|n| format!("{thread}{n}"))
            .find(|thread| ThreadKey::of(thread).as_uuid().is_some());
        prop_assert_eq!(told(&lookalike.unwrap()), None);
        for version in 1..=8 {
            let mut bytes = bits;
            bytes[6] = bytes[6] & 0x0f | version << 4;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            let id = Uuid::from_bytes(bytes).hyphenated().to_string();
            prop_assert_eq!(told(&id.to_uppercase()), Some(id));
        }
    }

    #[test]
    fn no_text_panics_or_passes(local in "\\PC{0,128}", word in "(reply[+-])?[A-Za-z0-9_=-]{0,110}") {
        for text in [local, word] {
            if let Ok(address) = Address::parse(&format!("\"{text}\"@inbox.example.com")) {
                prop_assert!(ring().verify(&address, NOW).is_err());
            }
        }
    }
}
