//! The real program with outgoing mail enabled: start, counters, stop; and the report of `doctor` about its
//! relays.

use super::server::{Act, Fake, Step};
use crate::postern::Postern;

#[test]
fn the_program_runs_the_outbox_if_it_is_enabled() {
    let sending =
        "[outbound]\nenabled = true\nfrom = \"us@example.com\"\nhost = \"127.0.0.1\"\nport = 1\n";
    let captured = "[outbound]\nenabled = true\ncapture = true\nfrom = \"us@example.com\"\n";
    for (extra, words, is_counted) in [
        (
            sending,
            "outgoing mail uses this relay relay=\"127.0.0.1:1\"",
            true,
        ),
        (captured, "outgoing mail is captured, not sent", true),
        ("", "ready", false),
    ] {
        let mut postern = Postern::new(None, extra);
        postern.start();
        let log = postern.log();
        assert!(log.contains(words), "{log}");
        let (_, metrics) = postern.fetch("/metrics");
        assert_eq!(
            metrics.contains("postern_outbound_in_flight 0"),
            is_counted,
            "{metrics}"
        );
        assert_eq!(
            metrics.contains("postern_outbound_relay_up{relay=\"127.0.0.1:1\"} 1"),
            extra == sending,
            "{metrics}"
        );
        postern.stop();
    }
}

#[test]
fn doctor_tests_the_relays_and_sends_nothing() {
    let good = Fake::start(|_, _| Act::Usual);
    let sick = Fake::start(|step, _| match step {
        Step::Greeting => Act::Say("554 5.7.1 not you\r\n".to_owned()),
        _ => Act::Usual,
    });
    for (port, word, said) in [
        (good.port, "ok  ", "accepts mail from us"),
        (sick.port, "fail", "greeting: 554 5.7.1 not you"),
    ] {
        let postern = Postern::new(
            None,
            &format!(
                "[outbound]\nenabled = true\nfrom = \"us@example.com\"\n\
                 host = \"127.0.0.1\"\nport = {port}\n"
            ),
        );
        let report = postern.command(&["doctor"]);
        let report = String::from_utf8(report.stdout).unwrap();
        let line = format!("{word}  relay 127.0.0.1:{port}: {said}\n");
        assert!(report.contains(&line), "{report}");
    }
    assert!(good.heard().is_empty());
}
