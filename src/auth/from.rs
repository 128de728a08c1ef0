//! Owns the determination of the single author in From, as in the parsed view.
//!
//! Does not read Sender or Reply-To, which identify no author.

use super::field::RawHeader;
use crate::mail::address::Address;
use crate::mail::verdict::FromProblem;
use crate::mail::view::HeaderView;

/// The author's address.
///
/// # Errors
/// The reason why the From field names no single author.
pub(super) fn author<'a>(
    view: &'a HeaderView,
    header: &RawHeader<'_>,
) -> Result<&'a Address, FromProblem> {
    match view.from_fields {
        0 => return Err(FromProblem::NoField),
        1 if !header.hides_from => {}
        _ => return Err(FromProblem::SeveralFields),
    }
    // At a NUL some programs stop and others continue.
    if header.named("From").any(|field| has_odd_bytes(field.value)) {
        return Err(FromProblem::Unreadable);
    }
    match view.from.as_slice() {
        [] => Err(FromProblem::NoAddress),
        [only] => match &only.address {
            Some(address) => Ok(address),
            None if only.text.is_empty() => Err(FromProblem::NoAddress),
            None => Err(FromProblem::Unreadable),
        },
        _ => Err(FromProblem::SeveralAddresses),
    }
}

/// True for controls other than tabs and line ends.
fn has_odd_bytes(value: &[u8]) -> bool {
    let is_odd = |(at, byte): (usize, &u8)| match byte {
        b'\t' | b'\n' => false,
        b'\r' => value.get(at + 1) != Some(&b'\n'),
        byte => byte.is_ascii_control(),
    };
    value.iter().enumerate().any(is_odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forged From fields that a single field reveals.
    #[test]
    fn from_names_one_author_or_none() {
        use FromProblem::{NoAddress, NoField, SeveralAddresses, SeveralFields, Unreadable};
        for (fields, expected) in [
            ("From: a@bank.example\r\n", Ok("a@bank.example")),
            (
                "From: \"boss@bank.example\" <x@evil.example>\r\n",
                Ok("x@evil.example"),
            ),
            (
                "From: x@evil.example (a@bank.example)\r\n",
                Ok("x@evil.example"),
            ),
            ("From:\r\n a@bank.example\r\n", Ok("a@bank.example")),
            (
                "Sender: a@bank.example\r\nFrom: x@evil.example\r\n",
                Ok("x@evil.example"),
            ),
            ("From: Team: x@evil.example;\r\n", Ok("x@evil.example")),
            ("To: a@bank.example\r\n", Err(NoField)),
            (
                "Sender: a@bank.example\r\nReply-To: a@bank.example\r\n",
                Err(NoField),
            ),
            (
                "From: a@bank.example\r\nfrom: x@evil.example\r\n",
                Err(SeveralFields),
            ),
            (
                "From: x@evil.example\r\nFrom : a@bank.example\r\n",
                Err(SeveralFields),
            ),
            (
                "From : a@bank.example\r\nFrom: x@evil.example\r\n",
                Err(SeveralFields),
            ),
            ("From:\r\n", Err(NoAddress)),
            ("From: undisclosed:;\r\n", Err(NoAddress)),
            (
                "From: a@bank.example, x@evil.example\r\n",
                Err(SeveralAddresses),
            ),
            (
                "From: a@bank.example, b@bank.example\r\n",
                Err(SeveralAddresses),
            ),
            ("From: a@bank.example\0\r\n", Err(Unreadable)),
            ("From: a@bank.example\r@evil.example\r\n", Err(Unreadable)),
            (
                "From: <@evil.example,@bank.example:a@bank.example>\r\n",
                Err(Unreadable),
            ),
        ] {
            let mail = format!("{fields}\r\n");
            let view = HeaderView::parse(mail.as_bytes());
            let header = RawHeader::read(mail.as_bytes());
            let found = author(&view, &header).map(ToString::to_string);
            assert_eq!(found, expected.map(str::to_owned), "{fields}");
        }
    }
}
