//! Owns SASL responses, in base64 as in SMTP (RFC 4954) and IMAP (RFC 3501).
//!
//! Does not choose the mechanism.

use data_encoding::BASE64;

/// The response of PLAIN (RFC 4616), without an authorisation identity.
pub fn plain_response(user: &str, password: &str) -> String {
    BASE64.encode(format!("\0{user}\0{password}").as_bytes())
}

/// The response of XOAUTH2, as Google and Microsoft define it for an OAuth 2.0 access token.
pub fn xoauth2_response(user: &str, token: &str) -> String {
    BASE64.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_those_of_the_documents() {
        // The second example of RFC 4616 section 4.
        assert_eq!(
            plain_response("tim", "tanstaaftanstaaf"),
            "AHRpbQB0YW5zdGFhZnRhbnN0YWFm"
        );
        // The example in Google's description of XOAUTH2.
        assert_eq!(
            xoauth2_response(
                "someuser@example.com",
                "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"
            ),
            "dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJo\
             ZG1semRHRXVZMjl0Q2cBAQ=="
        );
    }
}
