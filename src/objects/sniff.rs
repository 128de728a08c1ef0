//! Owns the detection of a file's type from its first octets.
//!
//! Proves nothing: a file can have two types at once.

/// The media type of a file that begins with these octets, for a few known types; else `None`.
pub fn sniff(bytes: &[u8]) -> Option<&'static str> {
    // Some formats share their first octets; the name follows further on.
    let at = |offset: usize, wanted: &[u8]| {
        bytes
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(wanted))
    };
    if at(0, b"RIFF") {
        let inner = [
            (b"WEBP", "image/webp"),
            (b"WAVE", "audio/wav"),
            (b"AVI ", "video/x-msvideo"),
        ];
        return inner.iter().find(|(name, _)| at(8, *name)).map(|(_, t)| *t);
    }
    if at(4, b"ftyp") {
        let inner: [(&[u8], &str); 6] = [
            (b"heic", "image/heic"),
            (b"mif1", "image/heif"),
            (b"avif", "image/avif"),
            (b"qt  ", "video/quicktime"),
            (b"M4A ", "audio/mp4"),
            (b"", "video/mp4"),
        ];
        return inner.iter().find(|(name, _)| at(8, name)).map(|(_, t)| *t);
    }
    let found = BEGINNINGS.iter().find(|(beginning, _)| at(0, beginning));
    found.map(|(_, media_type)| *media_type)
}

const BEGINNINGS: [(&[u8], &str); 24] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"{\\rtf", "application/rtf"),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "application/x-ole-storage",
    ),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "application/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (b"MZ", "application/x-msdownload"),
    (b"\x7fELF", "application/x-elf"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"#!", "application/x-script"),
    (b"L\0\0\0\x01\x14\x02\0", "application/x-ms-shortcut"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_detected_by_first_octets() {
        let cases: [(&[u8], Option<&str>); 8] = [
            (b"\x89PNG\r\n\x1a\n....", Some("image/png")),
            (b"RIFF....WEBP", Some("image/webp")),
            (b"RIFF....", None),
            (b"....ftypheic", Some("image/heic")),
            (b"....ftypisom", Some("video/mp4")),
            (b"MZ\x90", Some("application/x-msdownload")),
            (b"hello", None),
            (b"", None),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(sniff(bytes), wanted, "{bytes:?}");
        }
    }
}
