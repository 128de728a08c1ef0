//! Postern: a mail door for products that have conversations.

pub mod clock;
pub mod delivery;
pub mod http;
pub mod ingress;
pub mod mail;
pub mod retry;
pub mod smtp;
pub mod store;
pub mod tls;
