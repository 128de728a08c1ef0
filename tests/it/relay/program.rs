//! The real program with outgoing mail switched on: it starts, counts, and stops.

use crate::postern::Postern;

#[test]
fn the_program_runs_the_outbox_if_mail_is_to_go_out() {
    let sending =
        "[outbound]\nenabled = true\nfrom = \"us@example.com\"\nhost = \"127.0.0.1\"\nport = 1\n";
    let captured = "[outbound]\nenabled = true\ncapture = true\nfrom = \"us@example.com\"\n";
    for (extra, words, is_counted) in [
        (
            sending,
            "mail goes out by this relay relay=\"127.0.0.1:1\"",
            true,
        ),
        (captured, "mail that goes out is captured, not sent", true),
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
