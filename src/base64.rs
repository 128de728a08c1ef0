//! Owns the decoding of base64 (RFC 4648 section 4) from input, with or without padding.
//!
//! Does not encode.

use data_encoding::{BASE64, BASE64_NOPAD};

/// Decodes base64 with or without padding; `None` if the text is not base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let padded = BASE64.decode(text.as_bytes());
    padded
        .or_else(|_| BASE64_NOPAD.decode(text.as_bytes()))
        .ok()
}

/// Decodes base64 that may contain line ends and spaces; `None` if the rest is not base64.
pub fn decode_lines(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        let whole: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        return decode(&whole);
    }
    decode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_and_lines_are_optional() {
        assert_eq!(decode("aGk=").unwrap(), b"hi");
        assert_eq!(decode("aGk").unwrap(), b"hi");
        assert_eq!(decode_lines("aGk\n=\r\n").unwrap(), b"hi");
        assert_eq!(decode_lines("aGk").unwrap(), b"hi");
        for text in ["a*", "aGk\n=", "aGk==", "a"] {
            assert!(decode(text).is_none(), "{text}");
        }
    }
}
