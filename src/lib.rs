//! Postern: an e-mail gateway for products that have conversations.
//!
//! A product sends its notifications with a reply address that contains a signed token. People
//! answer from their mail program. Postern receives the answer, finds the conversation, extracts
//! the words the person wrote, and posts them to the product's Messages API.
//!
//! The modules, from the ground up: [`clock`], [`network`], [`mail`] and [`retry`] are pure: time,
//! networks, the structure and meaning of a mail, and the step after a failed attempt. [`limits`]
//! bounds memory, connections and rates. [`smtp`] is the SMTP session as a state machine over bytes;
//! [`store`] keeps what must survive a crash. [`auth`] authenticates senders, [`tls`] holds the
//! certificates, [`client`] what the clients of mail servers share, [`objects`] the attachments,
//! [`queue`] the operations on mail that is not settled. [`ingress`] receives mail, [`delivery`]
//! posts it, [`outbound`] composes and sends mail, [`events`] notifies subscribers, [`http`] serves
//! the API and the pages; these meet only in the store. [`config`] reads the configuration, [`run`]
//! wires everything, [`cli`] is the command line. Imports go only down this list, which a test
//! proves.

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
