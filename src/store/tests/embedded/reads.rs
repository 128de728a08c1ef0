//! Tests of records that the disk does not return: once, or ever again.

use std::fs;

use super::super::{NOW, Subject, TestStore, envelope, mail, mapping, run, settings};
use super::EIO;
use crate::mail::token::ThreadKey;
use crate::store::{DeliveryId, Fact, ReadError, StoreError};

const EMFILE: i32 = 24;

#[test]
fn a_read_that_fails_once_is_retried() {
    let mut fixture = TestStore::begin(|folder| settings(folder, 1 << 20));
    let id = run(fixture.store().accept(envelope(1), mail(7, 500))).unwrap();
    run(fixture.store().record(vec![Fact::Mapped(mapping(1, 1))])).unwrap();
    // The memory of this store still has the mail that it accepted.
    fixture.reopen();
    let delivery = DeliveryId {
        mail: id,
        recipient: 0,
    };
    let store = fixture.store().clone();
    let thread = || run(store.thread("us", ThreadKey::of("thread-1")));
    for errno in [EIO, EMFILE] {
        let faults = &fixture.disk.faults;
        faults.fail_reads(&[errno]);
        assert_eq!(run(store.mail_bytes(id)).unwrap(), mail(7, 500));
        faults.fail_reads(&[errno, errno]);
        assert_eq!(thread(), Ok(Some(mapping(1, 1))));
        faults.fail_reads(&[errno]);
        assert_eq!(run(store.delivery(delivery)).unwrap().unwrap().id, delivery);
        // Every try fails: the caller retries later, and the store keeps working.
        faults.fail_reads(&[errno; 3]);
        let unread = run(store.mail_bytes(id)).unwrap_err();
        assert!(matches!(unread, ReadError::Store(StoreError::Unavailable)));
        faults.fail_reads(&[errno; 3]);
        assert_eq!(thread(), Err(StoreError::Unavailable));
        faults.fail_reads(&[errno; 3]);
        let listed = run(store.waiting(None, 9));
        assert_eq!(listed.unwrap_err(), StoreError::Unavailable);
        assert_eq!(thread(), Ok(Some(mapping(1, 1))));
        assert_eq!(store.has_room(1), Ok(()));
        run(store.accept(envelope(1), mail(8, 10))).unwrap();
    }
    drop(store);
}

#[test]
fn a_damaged_record_affects_no_other_record() {
    let mut fixture = TestStore::begin(|folder| settings(folder, 2000));
    let ids: Vec<_> = (0..3)
        .map(|seed| run(fixture.store().accept(envelope(1), mail(seed, 1500))).unwrap())
        .collect();
    fixture.reopen();
    let path = fixture
        .folder
        .path()
        .join("journal/mail-0000000001.segment");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = fixture.store();
    let unread = run(store.mail_bytes(ids[0])).unwrap_err();
    assert!(matches!(unread, ReadError::Disk { mail, .. } if mail == ids[0]));
    for seed in 1..3 {
        let bytes = run(store.mail_bytes(ids[usize::from(seed)])).unwrap();
        assert_eq!(bytes, mail(seed, 1500));
    }
    assert_eq!(store.has_room(1), Ok(()));
    run(store.accept(envelope(1), mail(8, 10))).unwrap();
    assert_eq!(
        run(store.find_duplicate(crate::mail::fingerprint::Fingerprint([1; 16]), NOW)),
        Ok(None)
    );
}
