//! Leases, claims, nonces and the order of events, on which concurrent workers rely.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::poll;

use super::outbox::{happened, id, job, letter};
use super::{NOW, Subject, envelope, for_every_store, mail, mapping, run, settings};
use crate::mail::fingerprint::Fingerprint;
use crate::mail::token::ThreadKey;
use crate::store::{
    ConversationKey, DeliveryId, Domains, EnqueueResult, EventId, Fact, LastMessage, LeaseName,
    Mapping, Nonce, Store, StoreError, TokenFacts, TokenQuestion, Work,
};

fn a_lease_is_held_by_one_at_a_time<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    run(async {
        let name = || LeaseName::Mailbox("ann@imap.example".to_owned());
        let first = real.store().lease(name()).await.unwrap();
        let mut second = Box::pin(real.store().lease(name()));
        assert!(poll!(&mut second).is_pending());
        let other = LeaseName::Mailbox("bob@imap.example".to_owned());
        let _other = real.store().lease(other).await.unwrap();
        let _thread = real.store().lock_thread(ThreadKey([1; 16])).await.unwrap();
        let taken = real.store().try_lease(name()).await.unwrap();
        assert!(taken.is_none(), "it is held");
        drop(first);
        drop(second.await.unwrap());
        assert!(real.store().try_lease(name()).await.unwrap().is_some());
    });
}

fn a_message_is_in_flight_until_its_lease_is_dropped<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    // This handle acts as a second worker, or as the intake.
    let other = real.store().clone();
    run(async {
        let is_posting = async |route, thread, text| other.is_posting(route, thread, text).await;
        assert_eq!(is_posting("r", "t", "a b").await, Ok(None));
        let first = real.store().begin_posting("r", "t", "a  b\n").await;
        let second = real.store().begin_posting("r", "t", "c").await.unwrap();
        assert_eq!(is_posting("r", "t", "a b").await, Ok(Some(true)));
        assert_eq!(is_posting("r", "t", "ab").await, Ok(Some(false)));
        assert_eq!(is_posting("other", "t", "a b").await, Ok(None));
        assert_eq!(is_posting("r", "other", "a b").await, Ok(None));
        drop(first.unwrap());
        assert_eq!(is_posting("r", "t", "a b").await, Ok(Some(false)));
        drop(second);
        assert_eq!(is_posting("r", "t", "c").await, Ok(None));
    });
}

fn a_nonce_is_bound_to_its_first_content<S: Subject>() {
    let mut real = S::begin(|folder| settings(folder, 1 << 20));
    let nonce = |digest, content| Nonce {
        digest: [digest; 16],
        content: [content; 16],
        until: NOW.plus(std::time::Duration::from_secs(60)),
    };
    for _ in 0..2 {
        run(async {
            let store = real.store();
            for (nonce, taken) in [
                (nonce(1, 7), true),
                (nonce(1, 8), false),
                (nonce(2, 8), true),
            ] {
                assert_eq!(store.bind_nonce(nonce).await, Ok(taken), "{nonce:?}");
            }
            // With two concurrent bindings one of the contents wins, permanently.
            let (one, other) =
                tokio::join!(store.bind_nonce(nonce(3, 1)), store.bind_nonce(nonce(3, 2)));
            assert_ne!(one.unwrap(), other.unwrap());
            assert_eq!(store.nonce_used([1; 16]).await, Ok(Some([7; 16])));
            assert_eq!(store.nonce_used([9; 16]).await, Ok(None));
        });
        real.reopen();
    }
}

fn claimed_deliveries_are_finished_under_their_claim<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    let store = real.store();
    run(async {
        store.accept(envelope(2), mail(1, 10)).await.unwrap();
        store.mail_arrived().await;
        let claim = store.claim(Work::Deliveries).await.unwrap();
        let page = store
            .waiting_with_partitions(&claim, None, 10)
            .await
            .unwrap();
        assert_eq!(page.len(), 2);
        let next = store
            .waiting_with_partitions(&claim, Some(page[0].0), 10)
            .await;
        assert_eq!(next.unwrap()[..], page[1..]);
        let settled = super::settled(page[0].0, 0, None);
        store.finish(&claim, vec![settled]).await.unwrap();
        let left = store
            .waiting_with_partitions(&claim, None, 10)
            .await
            .unwrap();
        assert_eq!(left[..], page[1..]);
        // A second settlement has no effect.
        let again = super::settled(page[0].0, 2, None);
        store.finish(&claim, vec![again]).await.unwrap();
        assert_eq!(store.ledger().dropped.len(), 0);
        assert_eq!(store.ledger().delivered, 1);
    });
}

fn between_ann_and(thread_id: &str) -> ConversationKey {
    ConversationKey {
        route: "us".to_owned(),
        thread_id: thread_id.to_owned(),
        with: "ann@peer.example".to_owned(),
    }
}

/// Asks for the facts about a token, and compares them with the answers to single questions.
async fn facts_agree(store: &Store, thread: &Mapping, token: u8, print: u8) -> TokenFacts {
    let question = TokenQuestion {
        fingerprint: Fingerprint([print; 16]),
        route: "us".to_owned(),
        thread: ThreadKey::of(&thread.thread_id),
        thread_id: None,
        token: [token; 16],
        author: Some("ann@peer.example".to_owned()),
    };
    let facts = store.token_facts(question.clone(), NOW).await.unwrap();
    let duplicate = store.find_duplicate(question.fingerprint, NOW).await;
    assert_eq!(Ok(facts.duplicate_of), duplicate);
    let mapping = store.thread("us", question.thread).await;
    assert_eq!(Ok(facts.mapping.clone()), mapping);
    let issued = store.thread_by_token(question.token).await;
    assert_eq!(Ok(facts.issued.clone()), issued);
    let mapped = facts.mapping.as_ref().map(|m| &m.thread_id);
    let key = mapped
        .or(facts.issued.as_ref())
        .map(|id| between_ann_and(id));
    assert_eq!(
        facts.last_message.as_ref().map(|(key, _)| key),
        key.as_ref()
    );
    if let Some((key, found)) = &facts.last_message {
        assert_eq!(Ok(found.clone()), store.last_message(key, true).await);
    }
    facts
}

fn the_facts_about_a_token_are_those_of_single_questions<S: Subject>() {
    let mut real = S::begin(|folder| settings(folder, 1 << 20));
    let (known, unknown) = (mapping(1, 1), mapping(2, 2));
    run(async {
        let store = real.store();
        let mail = store.accept(envelope(1), mail(1, 10)).await.unwrap();
        let delivery = DeliveryId { mail, recipient: 0 };
        let message = LastMessage {
            by_us: true,
            name: None,
            at: NOW,
            text: "our words".to_owned(),
        };
        let recorded = |thread: &Mapping| Fact::MessageRecorded {
            conversation: between_ann_and(&thread.thread_id),
            message: message.clone(),
        };
        let issued = Fact::TokenIssued {
            token: [9; 16],
            thread_id: unknown.thread_id.clone(),
            at: NOW,
        };
        let messages = [recorded(&known), recorded(&unknown)];
        let mut facts = vec![Fact::Mapped(known.clone()), issued];
        facts.extend(messages);
        facts.push(super::settled(delivery, 0, Some(5)));
        store.record(facts).await.unwrap();
    });
    // From memory, from the index, and rebuilt.
    for round in 0..3 {
        run(async {
            let store = real.store();
            let facts = facts_agree(store, &known, 0, 5).await;
            assert!(facts.duplicate_of.is_some(), "{round}");
            assert_eq!(facts.mapping.as_ref(), Some(&known), "{round}");
            assert!(facts.last_message.unwrap().1.is_some(), "{round}");
            let facts = facts_agree(store, &unknown, 9, 6).await;
            assert_eq!((facts.duplicate_of, facts.mapping), (None, None), "{round}");
            assert_eq!(facts.issued.as_ref(), Some(&unknown.thread_id), "{round}");
            assert!(facts.last_message.unwrap().1.is_some(), "{round}");
            let facts = facts_agree(store, &unknown, 0, 6).await;
            assert_eq!(facts.last_message, None, "{round}");
        });
        match round {
            0 => real.reopen(),
            _ => real.lose_index(),
        }
    }
}

fn a_leased_job_is_nobody_elses<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    let store = real.store();
    run(async {
        for nth in 0..2 {
            let key = u8::try_from(nth).unwrap();
            let taken = store.enqueue(job(nth, key, None), letter(nth, 10), Vec::new());
            assert_eq!(taken.await, Ok(EnqueueResult::New));
        }
        let claim = store.claim(Work::Jobs).await.unwrap();
        let soon = NOW.plus(std::time::Duration::from_secs(60));
        let domain: Arc<str> = "peer.example".into();
        let first = async || {
            let found = store.due_by_domain(&claim, soon, 9, &Domains::new()).await;
            found.unwrap().pop().map(|(id, _)| id)
        };
        assert_eq!(first().await, Some(id(0)));
        let lease = store.lease_job(&claim, id(0), &domain, 2).await.unwrap();
        assert!(lease.is_some());
        assert_eq!(first().await, Some(id(1)));
        let due = store.due_jobs(&claim, soon, 9).await.unwrap();
        assert_eq!(due.len(), 1, "the other one");
        let again = store.lease_job(&claim, id(0), &domain, 2).await;
        assert!(again.unwrap().is_none(), "it is leased");
        let crowded = store.lease_job(&claim, id(1), &domain, 1).await;
        assert!(crowded.unwrap().is_none(), "its domain has enough");
        drop(lease);
        assert_eq!(first().await, Some(id(0)));
        let closed = Domains::from([domain]);
        let found = store.due_by_domain(&claim, soon, 9, &closed).await;
        assert_eq!(found, Ok(Vec::new()));
        assert_eq!(store.next_due(&claim, &closed).await, Ok(None));
    });
}

fn events_are_ordered_and_their_names_opaque<S: Subject>() {
    let mut real = S::begin(|folder| settings(folder, 1 << 20));
    let events: Vec<Fact> = (0..5).map(happened).collect();
    run(real.store().record(events)).unwrap();
    let all = run(real.store().events_after(EventId::default(), 10)).unwrap();
    assert!(all.is_sorted_by(|a, b| a.0 < b.0));
    assert!(all.iter().all(|(id, _)| id.just_before() < *id));
    real.reopen();
    run(async {
        let store = real.store();
        for (nth, (id, event)) in all.iter().enumerate() {
            let behind = store.events_after(*id, 10).await.unwrap();
            assert_eq!(behind[..], all[nth + 1..]);
            let from = store.events_after(id.just_before(), 1).await.unwrap();
            assert_eq!(from[..], all[nth..=nth]);
            assert_eq!(store.event(*id).await, Ok(Some(Arc::clone(event))));
            let text = id.to_string();
            assert_eq!(text.parse(), Ok(*id));
            assert_eq!(store.has_gap_after(*id).await, Ok(false));
        }
    });
}

fn a_closed_store_takes_nothing<S: Subject>() {
    let real = S::begin(|folder| settings(folder, 1 << 20));
    let store = real.store().clone();
    run(async {
        store.clone().close().await;
        store.ended().await;
        let mail = Bytes::from_static(b"mail");
        assert_eq!(store.has_room(1), Err(StoreError::Dead));
        assert_eq!(store.accept(envelope(1), mail).await, Err(StoreError::Dead));
        assert_eq!(store.record(vec![happened(1)]).await, Err(StoreError::Dead));
    });
}

for_every_store!(
    a_lease_is_held_by_one_at_a_time,
    a_message_is_in_flight_until_its_lease_is_dropped,
    a_nonce_is_bound_to_its_first_content,
    claimed_deliveries_are_finished_under_their_claim,
    the_facts_about_a_token_are_those_of_single_questions,
    a_leased_job_is_nobody_elses,
    events_are_ordered_and_their_names_opaque,
    a_closed_store_takes_nothing,
);
