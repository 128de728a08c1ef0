//! Owns the decision which files are stored: limits on number and size, and blocked types and names.
//!
//! Does not scan for malware: a stored file may be harmful.

/// File name extensions that are blocked by default, because a double click would run such a file.
pub const BLOCKED_NAMES: [&str; 34] = [
    "apk", "app", "appx", "bat", "cab", "chm", "cmd", "com", "cpl", "dll", "exe", "hta", "ins",
    "iso", "jar", "js", "jse", "lnk", "mde", "msc", "msi", "msp", "mst", "pif", "ps1", "reg",
    "scr", "sct", "sys", "vb", "vbe", "vbs", "wsf", "wsh",
];
/// Media types, claimed or detected, that are blocked by default.
pub const BLOCKED_TYPES: [&str; 5] = [
    "application/x-msdownload",
    "application/x-elf",
    "application/x-mach-binary",
    "application/x-ms-shortcut",
    "application/java-archive",
];

/// Limits on the files of one mail.
#[derive(Clone, Debug)]
pub struct AttachmentLimits {
    /// The number of files of one mail; further ones are listed but not stored.
    pub count_max: usize,
    /// Octets of one file.
    pub bytes_max: u64,
    /// Octets of all files of one mail.
    pub total_bytes_max: u64,
    /// Blocked file name extensions, in lower case, without the dot.
    pub blocked_names: Vec<String>,
    /// Blocked media types, in lower case.
    pub blocked_types: Vec<String>,
}

impl Default for AttachmentLimits {
    fn default() -> Self {
        Self {
            count_max: 100,
            bytes_max: 25 << 20,
            total_bytes_max: 50 << 20,
            blocked_names: BLOCKED_NAMES.map(str::to_owned).to_vec(),
            blocked_types: BLOCKED_TYPES.map(str::to_owned).to_vec(),
        }
    }
}

/// The reason why a file is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The file name extension is blocked.
    BlockedName,
    /// The type, claimed or detected, is blocked.
    BlockedType,
    /// The mail contains only a reference to the file (RFC 2046 section 5.2.3).
    ExternalBody,
    /// The file exceeds the size limit.
    TooLarge,
    /// The mail exceeds the limit of files.
    TooMany,
    /// The file and those before it exceed the total limit.
    TotalTooLarge,
}

impl SkipReason {
    const ALL: [Self; 6] = [
        Self::BlockedName,
        Self::BlockedType,
        Self::ExternalBody,
        Self::TooLarge,
        Self::TooMany,
        Self::TotalTooLarge,
    ];

    /// The reason with this name.
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.label() == label)
    }

    /// The name of the reason in the Messages API.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BlockedName => "blocked_name",
            Self::BlockedType => "blocked_type",
            Self::ExternalBody => "elsewhere",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::TotalTooLarge => "total_too_large",
        }
    }
}

impl AttachmentLimits {
    /// True if Windows would run a file of this name: it drops trailing dots and spaces, and the text after
    /// a colon names a stream of the file (`a.js::$DATA`).
    fn is_name_blocked(&self, name: &str) -> bool {
        let file = name.split(':').next().unwrap_or_default();
        [name, file].into_iter().any(|name| {
            let name = name.trim_end_matches(['.', ' ']).to_lowercase();
            let ending = name.rsplit_once('.').map(|(_, ending)| ending);
            ending.is_some_and(|ending| self.blocked_names.iter().any(|b| b == ending))
        })
    }

    /// The reason not to store a file, if there is one. `types` are the claimed and the detected one;
    /// `before` is the number and the octets of the files that are stored already.
    pub fn screen(
        &self,
        name: Option<&str>,
        types: [Option<&str>; 2],
        bytes: u64,
        before: (usize, u64),
    ) -> Option<SkipReason> {
        let is_name_blocked = name.is_some_and(|name| self.is_name_blocked(name));
        // The content of this type is elsewhere (RFC 2046 section 5.2.3).
        let external = "message/external-body";
        if types[0].is_some_and(|claimed| claimed.eq_ignore_ascii_case(external)) {
            return Some(SkipReason::ExternalBody);
        }
        let mut types = types.into_iter().flatten();
        if is_name_blocked {
            Some(SkipReason::BlockedName)
        } else if types.any(|found| {
            self.blocked_types
                .iter()
                .any(|b| b.eq_ignore_ascii_case(found))
        }) {
            Some(SkipReason::BlockedType)
        } else if before.0 >= self.count_max {
            Some(SkipReason::TooMany)
        } else if bytes > self.bytes_max {
            Some(SkipReason::TooLarge)
        } else if before.1.saturating_add(bytes) > self.total_bytes_max {
            Some(SkipReason::TotalTooLarge)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_for_not_storing_is_named() {
        let bounds = AttachmentLimits {
            count_max: 2,
            bytes_max: 10,
            total_bytes_max: 15,
            ..AttachmentLimits::default()
        };
        let plain = [Some("text/plain"), None];
        let program = [Some("text/plain"), Some("application/x-msdownload")];
        for (name, types, bytes, before, skip) in [
            (Some("a.txt"), plain, 10, (0, 0), None),
            (None, plain, 5, (1, 10), None),
            (
                Some("a.pdf.EXE"),
                plain,
                1,
                (0, 0),
                Some(SkipReason::BlockedName),
            ),
            (
                Some("a.exe. ."),
                plain,
                1,
                (0, 0),
                Some(SkipReason::BlockedName),
            ),
            (
                Some("a.js::$DATA"),
                plain,
                1,
                (0, 0),
                Some(SkipReason::BlockedName),
            ),
            (
                Some("a.js. :x"),
                plain,
                1,
                (0, 0),
                Some(SkipReason::BlockedName),
            ),
            (Some("12:30.pdf"), plain, 1, (0, 0), None),
            (Some("exe"), plain, 1, (0, 0), None),
            (
                Some("a.txt"),
                program,
                1,
                (0, 0),
                Some(SkipReason::BlockedType),
            ),
            (
                Some("a"),
                [Some("Message/External-Body"), None],
                1,
                (0, 0),
                Some(SkipReason::ExternalBody),
            ),
            (None, plain, 1, (2, 2), Some(SkipReason::TooMany)),
            (None, plain, 11, (0, 0), Some(SkipReason::TooLarge)),
            (None, plain, 6, (1, 10), Some(SkipReason::TotalTooLarge)),
        ] {
            assert_eq!(bounds.screen(name, types, bytes, before), skip, "{name:?}");
        }
    }
}
