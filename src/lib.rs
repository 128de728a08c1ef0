//! Postern: an e-mail gateway for products that have conversations.
//!
//! A product sends its notifications with a reply address that contains a signed token. People
//! answer from their mail program. Postern receives the answer, finds the conversation, extracts
//! the words the person wrote, and posts them to the product's Messages API.
//!
//! The modules, from the lowest floor to the highest; imports go down only, which a test proves:
//!
//! - [`base64`], [`clock`], [`network`], [`random`], [`secret`] and [`signature`] are small tools.
//! - [`mail`] and [`retry`] are pure: the structure and meaning of a mail, and the step after a
//!   failed attempt. [`limits`] bounds memory, connections and rates.
//! - [`smtp`] is the SMTP and LMTP session as a state machine over bytes. [`store`] keeps everything
//!   that must survive a crash.
//! - [`auth`] authenticates senders, [`tls`] holds the certificates, [`client`] the common parts of the
//!   clients of mail servers, [`objects`] the attachments, [`queue`] the operations on mail that is
//!   not settled.
//! - [`ingress`] receives mail, [`delivery`] posts it, [`outbound`] composes and sends mail, [`events`]
//!   notifies subscribers, [`http`] serves the API and the pages. They meet only in the store.
//! - [`config`] reads the configuration, [`run`] assembles all parts, [`cli`] is the command line.

pub mod base64;
pub mod clock;
pub mod network;
pub mod random;
pub mod secret;
pub mod signature;

pub mod limits;
pub mod mail;
pub mod retry;

pub mod smtp;
pub mod store;

pub mod auth;
pub mod client;
pub mod objects;
pub mod queue;
pub mod tls;

pub mod delivery;
pub mod events;
pub mod http;
pub mod ingress;
pub mod outbound;

pub mod config;
pub mod run;

pub mod cli;
