//! Owns the common parts of the SMTP and IMAP clients: trusted certificates, SASL responses and token
//! files.
//!
//! Does not connect, and speaks no protocol.

mod sasl;
mod token_file;
mod trust;

pub use sasl::{plain_response, xoauth2_response};
pub use token_file::read_token_file;
pub use trust::{TrustError, TrustedRoots, client_config, is_trusted, public_roots};
