//! The integration tests, through the front doors.

#[cfg(test)]
#[path = "../../src/store/ask.rs"]
mod ask;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod bounces;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod buckets;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod compose;
#[cfg(test)]
mod config;
#[cfg(test)]
mod control;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod delivery_api;
#[cfg(test)]
mod delivery_faults;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod dialogues;
#[cfg(test)]
mod doors;
#[cfg(test)]
mod dovecot;
#[cfg(test)]
mod events;
#[cfg(test)]
mod fake_api;
#[cfg(test)]
mod http;
#[cfg(test)]
mod https;
#[cfg(test)]
mod imap;
#[cfg(test)]
mod ingress;
#[cfg(test)]
mod kind;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod mails;
#[cfg(test)]
mod methods;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod nameserver;
#[cfg(test)]
mod needs;
#[cfg(test)]
mod outbound_http;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod postern;
#[cfg(test)]
mod postfix;
#[cfg(test)]
mod product;
#[cfg(test)]
mod program;
#[cfg(test)]
mod recipe;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod reply;
#[cfg(test)]
mod returned;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod signs;
#[cfg(test)]
mod sink;
#[cfg(test)]
mod store;
#[cfg(test)]
mod understanding;
#[cfg(test)]
mod understood;
#[cfg(test)]
mod wait;
#[cfg(test)]
mod waiting;
#[cfg(test)]
mod webhook;
