//! Arbitrary text as a calendar part: its event, and the event as text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::mail::calendar::CalendarEvent;

fuzz_target!(|text: &str| {
    if let Some(event) = CalendarEvent::parse(text, None) {
        assert!(event.words().len() <= 2 * text.len() + 256);
    }
});
