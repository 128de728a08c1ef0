//! Owns `[attachments]`: the storage, limits, lifetime and links of attachments.
//!
//! Does not open anything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Section;
use super::secret::Secret;
use crate::mail::address::Domain;
use crate::objects::{
    AttachmentLimits, BLOCKED_NAMES, BLOCKED_TYPES, LinkSigner, S3Bucket, Settings, StorageLocation,
};

/// The folder of stored attachments, in the data folder.
const FOLDER: &str = "attachments";

/// Values read earlier that are the defaults of this table.
pub(super) struct AttachmentDefaults<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) hostname: Option<&'a Domain>,
    pub(super) http: Option<&'a SocketAddr>,
    pub(super) https: Option<&'a SocketAddr>,
    /// The reply secrets, newest first: they sign links if there is no separate secret.
    pub(super) secrets: Vec<Secret>,
    /// Octets that stay free on the disk of the data folder.
    pub(super) free_bytes_min: u64,
    /// True if a Messages API is not on this machine.
    pub(super) is_product_remote: bool,
}

/// Reads the table; `None` if it is not usable, with the reason in the findings.
pub(super) fn read(
    mut section: Section<'_>,
    defaults: &AttachmentDefaults<'_>,
) -> Option<Settings> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let folder = section.path_maybe("folder");
    let place = match bucket(section.table("bucket")) {
        Ok(None) => {
            Some(StorageLocation::Folder(folder.unwrap_or_else(|| {
                PathBuf::from(defaults.data_dir).join(FOLDER)
            })))
        }
        Ok(Some(bucket)) => {
            if folder.is_some() {
                section.warn("folder", "no effect: files are in the bucket");
            }
            Some(StorageLocation::Bucket(bucket))
        }
        Err(InvalidBucket) => None,
    };
    let bounds = bounds(&mut section);
    let base_url = section.parsed("base_url", url);
    if base_url.is_none()
        && defaults
            .http
            .is_some_and(|address| address.ip().is_loopback())
        && defaults.is_product_remote
    {
        let what = "not set: the links to attachments lead to this machine's loopback address, which \
                    the product cannot reach";
        section.warn("base_url", what);
    }
    let base_url = base_url.or_else(|| own_url(defaults));
    let own_secrets = section.strong_secrets("secret");
    let spans = Duration::from_secs(60)..=3650 * DAY;
    let lifetime = section.duration("link_lifetime", 30 * DAY, spans.clone());
    let age_max = section.duration("age_max", 365 * DAY, spans);
    if lifetime > age_max {
        section.problem(
            "link_lifetime",
            "longer than age_max: links would outlive their files",
        );
    }
    section.end();
    // Links that were signed before the secret changed stay valid.
    let own_secrets = own_secrets.iter();
    let secrets: Vec<Secret> = own_secrets.chain(&defaults.secrets).cloned().collect();
    if secrets.is_empty() {
        return None;
    }
    Some(Settings {
        location: place?,
        bounds,
        links: LinkSigner::new(&base_url?, &secrets, lifetime),
        age_max,
        free_bytes_min: defaults.free_bytes_min,
    })
}

fn bounds(section: &mut Section<'_>) -> AttachmentLimits {
    let defaults = AttachmentLimits::default();
    let sizes = 0..=1 << 40;
    let lower = |text: &str| Ok::<_, String>(text.trim_start_matches('.').to_ascii_lowercase());
    let names = section.list("blocked_names", Some(&BLOCKED_NAMES), lower);
    let types = section.list("blocked_types", Some(&BLOCKED_TYPES), lower);
    AttachmentLimits {
        count_max: section.count("count_max", defaults.count_max, 0..=1000),
        bytes_max: section.size("bytes_max", defaults.bytes_max, sizes.clone()),
        total_bytes_max: section.size("total_bytes_max", defaults.total_bytes_max, sizes),
        blocked_names: names.unwrap_or(defaults.blocked_names),
        blocked_types: types.unwrap_or(defaults.blocked_types),
    }
}

/// The error of a bucket, after it was reported.
struct InvalidBucket;

fn bucket(mut section: Section<'_>) -> Result<Option<S3Bucket>, InvalidBucket> {
    let is_said = !section.given_keys().is_empty();
    let name = section.text_maybe("name");
    let endpoint = section.parsed("endpoint", url);
    let region = section.text("region", "us-east-1");
    let prefix = section.text("prefix", "postern");
    let key_id = section.text_maybe("key_id");
    let has_key = ["key", "key_file"].iter().any(|key| section.is_given(key));
    let key = section.secret("key");
    if is_said {
        for (key, is_there) in [
            ("name", name.is_some()),
            ("key_id", key_id.is_some()),
            ("key", has_key),
        ] {
            if !is_there {
                section.problem(key, "missing: a bucket has a name, a key_id and a key");
            }
        }
    }
    section.end();
    if !is_said {
        return Ok(None);
    }
    let (Some(name), Some(key_id), Some(key)) = (name, key_id, key) else {
        return Err(InvalidBucket);
    };
    Ok(Some(S3Bucket {
        name,
        endpoint,
        region,
        prefix: prefix.trim_matches('/').to_owned(),
        key_id,
        key,
    }))
}

pub(super) fn url(text: &str) -> Result<String, &'static str> {
    let url = reqwest::Url::parse(text).map_err(|_| "not a URL")?;
    let is_bare = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_bare {
        return Err("not of the form https://host");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has more than a host and a path");
    }
    Ok(text.to_owned())
}

/// The URL of our own HTTP address, as far as it is known.
fn own_url(defaults: &AttachmentDefaults<'_>) -> Option<String> {
    let Some(address) = defaults.http else {
        // A certificate is issued for a name.
        let (address, host) = (defaults.https?, defaults.hostname.map(Domain::ascii)?);
        return Some(format!("https://{host}:{}", address.port()));
    };
    if address.ip().is_unspecified() {
        let host = defaults.hostname.map(Domain::ascii)?;
        return Some(format!("http://{host}:{}", address.port()));
    }
    Some(format!("http://{address}"))
}
