//! Postern: a mail door for products that have conversations.
//!
//! A product sends its notifications with a reply address that carries a signed token. People answer
//! from their mail program; Postern takes that mail in, finds the conversation, cuts out the words
//! the person wrote, and posts them to the product's Messages API.
//!
//! Read it from the ground up. [`clock`], [`network`], [`mail`] and [`retry`] are pure: the time, where a
//! peer is, what a mail is and says, and what comes after a failed attempt. [`limits`] bounds
//! memory, connections and rates. [`smtp`] is one conversation with a mail server as a
//! machine of bytes; [`store`] is what must survive a crash. [`auth`] says who wrote a mail, [`tls`]
//! holds the certificates, [`client`] what clients of mail servers share, [`objects`] the files that came with mail. [`ingress`] takes mail in,
//! [`delivery`] hands it over, [`outbound`] makes the mail that goes out, [`http`] shows and serves;
//! they never meet but in the store. [`config`] reads the operator's words, [`run`] wires everything, [`cli`] is the command line. Imports go down
//! this list only, which a test proves.

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
pub mod tls;

pub mod delivery;
pub mod events;
pub mod http;
pub mod ingress;
pub mod outbound;

pub mod config;
pub mod run;

pub mod cli;
