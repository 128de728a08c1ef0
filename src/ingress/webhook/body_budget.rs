//! Owns how many octets a request's body may have, by the form in which it carries a mail.
//!
//! Does not read bodies, and knows no provider.

/// Octets of a body for what is no mail: addresses, words, the names of fields.
const ENVELOPE_BYTES: usize = 1 << 20;

/// Octets of a body with a mail of so many as it is.
pub(super) const fn with_plain_mail(mail: usize) -> usize {
    mail.saturating_add(ENVELOPE_BYTES)
}

/// Octets of a body with a mail of so many in base64: four for three, and line ends, which JSON
/// writes with two letters.
pub(super) const fn with_base64_mail(mail: usize) -> usize {
    with_plain_mail((mail / 5).saturating_mul(7))
}

/// Octets of a body with a mail of so many and its files in base64 once more.
pub(super) const fn with_mail_and_files(mail: usize) -> usize {
    with_base64_mail(mail).saturating_add(mail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_in_base64_fits_with_its_line_ends() {
        for mail in [0usize, 1, 1000, 50 << 20, 1 << 30] {
            let encoded = mail.div_ceil(3) * 4;
            // Postal has a line end behind every sixty letters, and JSON writes it as two.
            let lined = encoded + encoded.div_ceil(60) * 2;
            assert!(with_base64_mail(mail) > lined, "{mail}");
            assert!(with_mail_and_files(mail) > lined + mail, "{mail}");
        }
        assert_eq!(with_plain_mail(usize::MAX), usize::MAX);
    }
}
