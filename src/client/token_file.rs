//! Owns the reading of token files, which contain an access token that another program renews.
//!
//! Does not cache the token.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Bytes of a token file. Microsoft's tokens have about two thousand.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

/// Reads the token of a file; white space around it is ignored.
///
/// # Errors
/// The file cannot be read, is longer than 16 KiB, is empty, or contains a character that is not allowed in
/// a token.
pub async fn read_token_file(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    read.map_err(io::Error::other)?
}

fn read(path: &Path) -> io::Result<String> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut text = String::new();
    let mut file = File::open(path)?.take(TOKEN_BYTES_MAX + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(invalid(format!("longer than {TOKEN_BYTES_MAX} octets")));
    }
    let token = text.trim();
    // A control character could end the SASL field of the token.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "no token: the file is empty, or has invalid characters";
        return Err(invalid(what.to_owned()));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_file_has_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(read_token_file(&path).await.is_err());
        for (text, token) in [
            ("ya29.a-b_c\n", Some("ya29.a-b_c")),
            (" \t", None),
            ("two words", None),
            ("a\x01b", None),
            (&"x".repeat(20_000), None),
        ] {
            std::fs::write(&path, text).unwrap();
            let found = read_token_file(&path).await.ok();
            assert_eq!(found.as_deref(), token, "{text:?}");
        }
    }
}
