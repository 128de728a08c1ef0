use std::time::Duration;

use super::client::Client;
use super::{DOMAIN, Harness};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3_600);

async fn opens_data(client: &mut Client) {
    client.says("MAIL FROM:<ann@example.org>", "250 ").await;
    client
        .says(&format!("RCPT TO:<fans@{DOMAIN}>"), "250 ")
        .await;
    client.says("DATA", "354 ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_closed() {
    let harness = Harness::with(|settings| settings.idle_max = SHORT).await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    client.hears("421 4.4.2 ").await;
    client.hears_the_end().await;
    harness.until_all_are_gone().await;
    assert_eq!(
        harness.metric("refusals_total{refusal=\"idle_too_long\"}"),
        1
    );
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_trickles_is_no_progress() {
    let harness = Harness::with(|settings| settings.idle_max = Duration::from_millis(300)).await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    // Each byte arrives well within the limit, all together do not.
    for _ in 0..1_000 {
        if client.tries_to_send("x").await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if harness.metric("refusals_total{refusal=\"idle_too_long\"}") == 1 {
            break;
        }
    }
    client.hears("421 4.4.2 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_trickles_is_refused_and_not_stored() {
    let harness = Harness::with(|settings| {
        settings.rate_grace = SHORT;
        settings.rate_min = u32::MAX;
    })
    .await;
    let mut client = harness.hello().await;
    opens_data(&mut client).await;
    client.sends("Subject: slow\r\n").await;
    client.hears("421 4.4.2 ").await;
    client.hears_the_end().await;
    assert_eq!(
        harness.metric("refusals_total{refusal=\"data_too_slow\"}"),
        1
    );
    assert_eq!(harness.deliveries().len(), 0);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_an_end_unless_it_is_exempt() {
    let harness = Harness::with(|settings| {
        settings.session_max = SHORT;
        settings.exempt.clear();
    })
    .await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    client.hears("421 4.4.2 ").await;
    assert_eq!(
        harness.metric("refusals_total{refusal=\"session_too_long\"}"),
        1
    );
    // A client of a unix socket is exempt.
    let mut local = Client::unix(&harness.unix()).await;
    local.hears("220 ").await;
    // A later TCP client is closed too, so that session's time is over.
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    client.hears("421 4.4.2 ").await;
    local.says("LHLO x", "250").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_a_bound_of_bytes() {
    let harness = Harness::with(|settings| {
        settings.session_bytes_max = 10_000;
        settings.exempt.clear();
    })
    .await;
    let mut client = harness.hello().await;
    let mail = format!(
        "Subject: x\r\n\r\n{}.\r\n",
        "0123456789abcde\r\n".repeat(1_000)
    );
    let answer = client.posts(&format!("fans@{DOMAIN}"), &mail).await;
    assert!(
        answer.starts_with("250 "),
        "the mail that reaches the bound is taken"
    );
    client.hears("421 ").await;
    client.hears_the_end().await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_are_closed_first_when_crowded() {
    let harness = Harness::with(|settings| {
        settings.connections_max = 4;
        settings.crowded_percent = 50;
        settings.idle_crowded_max = SHORT;
    })
    .await;
    let mut first = harness.hello().await;
    let mut second = harness.hello().await;
    first.says("NOOP", "250 ").await;
    second.says("NOOP", "250 ").await;
    let mut third = harness.connect().await;
    third.hears("220 ").await;
    first.hears("421 4.4.2 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_bounded() {
    let harness = Harness::with(|settings| settings.connections_max = 2).await;
    let mut first = harness.hello().await;
    let mut second = Client::unix(&harness.unix()).await;
    second.hears("220 ").await;
    let mut third = harness.connect().await;
    third.hears("421 4.3.2 ").await;
    third.hears_the_end().await;
    assert_eq!(
        harness.metric("connections_refused_total{reason=\"server_full\"}"),
        1
    );
    first.says("QUIT", "221 ").await;
    drop(first);
    harness
        .until("a place is free", |harness| harness.open() == 1)
        .await;
    drop(harness.hello().await);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_has_its_share_of_places() {
    let harness = Harness::with(|settings| {
        settings.connections_per_network_max = 2;
        settings.exempt.clear();
    })
    .await;
    let first = harness.hello().await;
    let _second = harness.hello().await;
    let mut third = harness.connect().await;
    third.hears("421 4.7.0 ").await;
    third.hears_the_end().await;
    let reason = "connections_refused_total{reason=\"too_many_connections\"}";
    assert_eq!(harness.metric(reason), 1);
    // A client of the unix socket has no network.
    Client::unix(&harness.unix()).await.hears("220 ").await;
    drop(first);
    harness
        .until("the place is free", |harness| {
            harness.metric("connections_open{protocol=\"smtp\"}") == 1
        })
        .await;
    drop(harness.hello().await);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_before_the_greeting_is_refused() {
    let harness = Harness::with(|settings| {
        settings.greeting_wait = LONG;
        settings.exempt.clear();
    })
    .await;
    let mut client = harness.connect().await;
    client.sends("EHLO client.example\r\n").await;
    client.hears("554 5.5.0 ").await;
    client.hears_the_end().await;
    harness.end().await;

    let harness = Harness::with(|settings| {
        settings.greeting_wait = SHORT;
        settings.exempt.clear();
    })
    .await;
    drop(harness.hello().await);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_in_flight_has_a_budget() {
    let harness = Harness::with(|settings| settings.bytes_in_flight_max = 200_000).await;
    let to = format!("fans@{DOMAIN}");
    let body = |bytes: usize| {
        format!(
            "Subject: x\r\n\r\n{}",
            "0123456789abcd\r\n".repeat(bytes / 16)
        )
    };
    let mut holder = harness.hello().await;
    opens_data(&mut holder).await;
    holder.sends(body(40_000)).await;
    harness
        .until("the mail is held", |harness| {
            harness.metric("in_flight_bytes") >= 40_000
        })
        .await;

    let mut other = harness.hello().await;
    let answer = other.posts(&to, &format!("{}.\r\n", body(190_000))).await;
    assert!(answer.starts_with("452 4.3.1 "), "{answer}");
    // The rest was discarded, not run as commands, and the budget is free again.
    other.says("NOOP", "250 ").await;
    assert!(harness.metric("in_flight_bytes") < 100_000);
    other
        .says("MAIL FROM:<ann@example.org> SIZE=190000", "452 4.3.1 ")
        .await;
    let answer = other.posts(&to, "Subject: small\r\n\r\n.\r\n").await;
    assert!(answer.starts_with("250 "), "{answer}");

    drop(holder);
    harness
        .until("it is given back", |harness| harness.open() == 1)
        .await;
    let answer = other.posts(&to, &format!("{}.\r\n", body(60_000))).await;
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(harness.metric("in_flight_bytes"), 0);
    assert_eq!(harness.deliveries().len(), 2);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed() {
    let harness = Harness::with(|settings| {
        settings.write_max = SHORT;
        settings.session.refused_max = u32::MAX;
        settings.session.rcpt_max = usize::MAX;
    })
    .await;
    let mut client = Client::unix(&harness.unix()).await;
    client.sends("LHLO x\r\nMAIL FROM:<>\r\n").await;
    let rcpt = format!("RCPT TO:<nobody@{DOMAIN}>\r\n").repeat(1_000);
    for _ in 0..1_000 {
        if client.tries_to_send(&rcpt).await.is_err() {
            break;
        }
    }
    harness.until_all_are_gone().await;
    harness.end().await;
}

const MIB: usize = 1024 * 1024;

/// A client at this address of loopback, after EHLO.
async fn hello_from(harness: &Harness, source: &str) -> Client {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    let mut client = Client::over(socket.connect(harness.tcp(0)).await.unwrap());
    client.hears("220 ").await;
    client.says("EHLO client.example", "250").await;
    client
}

fn mail_of(bytes: usize) -> String {
    let line = format!("{}\r\n", "x".repeat(998));
    format!("Subject: x\r\n\r\n{}.\r\n", line.repeat(bytes / line.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_network_cannot_hold_the_memory_of_all() {
    let harness = Harness::with(|settings| {
        settings.exempt.clear();
        settings.session.mail_bytes_max = 2 * MIB as u64;
        settings.bytes_in_flight_max = 8 * MIB;
    })
    .await;
    let mut attackers = Vec::new();
    for _ in 0..6 {
        let mut attacker = hello_from(&harness, "127.0.0.1").await;
        attacker.sends("MAIL FROM:<eve@example.org>\r\n").await;
        if attacker.reply().await.starts_with("250 ") {
            attacker
                .says(&format!("RCPT TO:<fans@{DOMAIN}>"), "250 ")
                .await;
            attacker.says("DATA", "354 ").await;
            let mail = mail_of(19 * MIB / 10);
            attacker.sends(mail.trim_end_matches(".\r\n")).await;
        }
        attackers.push(attacker);
    }
    harness
        .until("a mail of that network is held", |harness| {
            harness.metric("in_flight_bytes") > 18 * MIB as i64 / 10
        })
        .await;
    for bytes in [100, MIB * 3 / 2] {
        let mut fresh = hello_from(&harness, "127.0.0.2").await;
        let answer = fresh
            .posts(&format!("fans@{DOMAIN}"), &mail_of(bytes))
            .await;
        assert!(answer.starts_with("250 "), "{bytes}: {answer}");
    }
    assert!(harness.metric("in_flight_bytes") < 5 * MIB as i64 / 2);
    drop(attackers);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_does_not_pay_for_a_long_drip() {
    let harness = Harness::with(|settings| {
        settings.rate_grace = SHORT * 4;
        settings.rate_min = 500;
    })
    .await;
    let mut client = harness.hello().await;
    opens_data(&mut client).await;
    client.sends(mail_of(MIB).trim_end_matches(".\r\n")).await;
    client.hears("421 4.4.2 ").await;
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_idle_client_is_evicted() {
    let harness = Harness::with(|settings| {
        settings.exempt.clear();
        settings.connections_max = 8;
        settings.crowded_percent = 100;
        settings.idle_max = LONG;
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(harness.hello().await);
    }
    drop(hello_from(&harness, "127.0.0.2").await);
    idle[0].hears("421 4.4.2 ").await;
    idle[1].says("NOOP", "250 ").await;
    harness.end().await;
}
