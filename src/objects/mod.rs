//! Owns the files of mails: each stored once under the hash of its octets, in a local folder or in an
//! S3-compatible bucket, for a limited time; the signed links to them; and the reading of objects from
//! external buckets.
//!
//! Does not read mail, and does not serve HTTP.

mod buckets;
mod link;
mod screen;
mod sniff;

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path as FsPath, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::client::{HttpClient, HttpConnector};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, RetryConfig};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::RwLock;
use tokio::{task, time};
use tracing::{info, warn};

use crate::clock::{self, Timestamp};
use crate::secret::Secret;

pub use buckets::{BucketError, BucketObject, ReadableBuckets};
pub use link::{AttachmentLink, LINK_PATH, LinkError, LinkSigner, LinkTerms};
pub use screen::{AttachmentLimits, BLOCKED_NAMES, BLOCKED_TYPES, SkipReason};
pub use sniff::sniff;

/// The folder, within the folder of files, for incomplete files.
const STAGING: &str = "new";
/// The age from which an incomplete file is the remainder of a crash.
const STAGING_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The time limit of one call to a bucket.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of a connection to a bucket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of immediate retries of a failed call.
const RETRIES_MAX: usize = 2;
/// The interval between two searches for expired files.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// The settings of the stored files.
#[derive(Clone)]
pub struct Settings {
    /// Location of the files.
    pub location: StorageLocation,
    /// Limits on the files of one mail.
    pub bounds: AttachmentLimits,
    /// Signer of the links.
    pub links: LinkSigner,
    /// The time for which a file is kept after the last mail with it.
    pub age_max: Duration,
    /// Octets that stay free on the disk of the folder, for the journal.
    pub free_bytes_min: u64,
}

/// The location of the files.
#[derive(Clone)]
pub enum StorageLocation {
    /// A local folder, which is created if it does not exist.
    Folder(PathBuf),
    /// A bucket.
    Bucket(S3Bucket),
}

/// A bucket of S3, or of a compatible server.
#[derive(Clone)]
pub struct S3Bucket {
    /// The name of the bucket.
    pub name: String,
    /// The URL of the server; `None` is Amazon's own.
    pub endpoint: Option<String>,
    /// The region for signing requests.
    pub region: String,
    /// The prefix of each file's name; may be empty.
    pub prefix: String,
    /// The id of the access key.
    pub key_id: String,
    /// The secret access key.
    pub key: Secret,
}

impl fmt::Debug for S3Bucket {
    /// Does not print the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Bucket")
            .field("name", &self.name)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = match &self.location {
            StorageLocation::Folder(folder) => folder.display().to_string(),
            StorageLocation::Bucket(bucket) => format!("bucket {}", bucket.name),
        };
        f.debug_struct("Settings")
            .field("location", &location)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}

/// The name of a stored file: the SHA-256 of its octets. `Display` writes lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId([u8; 32]);

impl ObjectId {
    /// The name of a file with these octets.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for ObjectId {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bytes = HEXLOWER.decode(text.as_bytes());
        let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(LinkError::Forged)
    }
}

/// The reason why a file cannot be stored, read or removed. The source has details.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The folder or a file in it failed.
    #[error("{}", path.display())]
    Io {
        /// Path of the folder or file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The disk of the folder has too little free space.
    #[error("{}: too little free space for attachments", path.display())]
    Full {
        /// Path of the folder.
        path: PathBuf,
    },
    /// The storage of the files failed.
    #[error("storage of attachments")]
    Store(#[from] object_store::Error),
}

/// The octets of a file, or of a range of it, as they arrive.
pub struct ObjectStream {
    /// The range of the octets within the file.
    pub range: Range<u64>,
    /// The octets.
    pub stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
}

/// The stored files. Clones share them.
#[derive(Clone)]
pub struct Objects {
    shared: Arc<ObjectsState>,
}

struct ObjectsState {
    store: Arc<dyn ObjectStore>,
    /// The folder, if the files are in one.
    folder: Option<PathBuf>,
    prefix: String,
    settings: Settings,
    /// Held shared while a file is stored, and exclusively while one is removed, so that a file that is
    /// stored again in the meantime is not removed.
    sweep_lock: RwLock<()>,
}

impl Objects {
    /// Opens the folder, which is created if it does not exist, or prepares a client for the bucket,
    /// without a request.
    ///
    /// # Errors
    /// The folder cannot be created, or the bucket's settings are invalid.
    pub fn open(settings: Settings) -> Result<Self, ObjectError> {
        let (store, folder, prefix): (Arc<dyn ObjectStore>, _, _) = match &settings.location {
            StorageLocation::Folder(folder) => {
                create_folder(&folder.join(STAGING))?;
                let store = LocalFileSystem::new_with_prefix(folder)?;
                (Arc::new(store), Some(folder.clone()), String::new())
            }
            StorageLocation::Bucket(bucket) => (
                Arc::new(bucket_client(bucket)?),
                None,
                bucket.prefix.clone(),
            ),
        };
        let shared = ObjectsState {
            store,
            folder,
            prefix,
            settings,
            sweep_lock: RwLock::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The limits on the files of one mail.
    pub fn bounds(&self) -> &AttachmentLimits {
        &self.shared.settings.bounds
    }

    /// The signer of the links.
    pub fn links(&self) -> &LinkSigner {
        &self.shared.settings.links
    }

    /// Stores octets under their hash. On success they survive a crash. If the file exists already, its age
    /// starts again.
    ///
    /// # Errors
    /// The octets cannot be written now.
    pub async fn put(&self, id: ObjectId, bytes: Bytes) -> Result<(), ObjectError> {
        let shared = &self.shared;
        let _kept = shared.sweep_lock.read().await;
        let Some(folder) = &shared.folder else {
            shared.store.put(&shared.path(id), bytes.into()).await?;
            return Ok(());
        };
        let path = folder.join(id.to_string());
        if refresh_existing(path, bytes.len()).await? {
            return Ok(());
        }
        self.ensure_space(folder, bytes.len()).await?;
        // The file gets its name when it is complete and on disk, so that no name refers to a partial file.
        let fresh = format!("{STAGING}/{id}-{}", uuid::Uuid::new_v4());
        let fresh = Path::from(fresh);
        shared.store.put(&fresh, bytes.into()).await?;
        sync_path(folder.join(fresh.as_ref())).await?;
        shared.store.rename(&fresh, &shared.path(id)).await?;
        sync_path(folder.clone()).await
    }

    /// Checks that the disk of `folder` has enough free space for `bytes` more.
    async fn ensure_space(&self, folder: &FsPath, bytes: usize) -> Result<(), ObjectError> {
        let disk = with_file(folder.to_owned(), |path| Ok(rustix::fs::statvfs(path)?)).await?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match free.saturating_sub(bytes as u64) < self.shared.settings.free_bytes_min {
            true => Err(ObjectError::Full {
                path: folder.to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// The size of a stored file in octets; `None` if there is none of this name.
    ///
    /// # Errors
    /// The storage does not respond.
    pub async fn size(&self, id: ObjectId) -> Result<Option<u64>, ObjectError> {
        let found = self.shared.head(&self.shared.path(id)).await?;
        Ok(found.map(|meta| meta.size))
    }

    /// The octets of a stored file in `range`; `None` if there is none of this name.
    ///
    /// # Errors
    /// The storage does not return them.
    pub async fn read(
        &self,
        id: ObjectId,
        range: Range<u64>,
    ) -> Result<Option<ObjectStream>, ObjectError> {
        let options = GetOptions {
            // The storage does not accept an empty range.
            range: (!range.is_empty()).then_some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        match self
            .shared
            .store
            .get_opts(&self.shared.path(id), options)
            .await
        {
            Ok(found) => Ok(Some(ObjectStream {
                range: found.range.clone(),
                stream: found.into_stream(),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the files that have expired at `now`, and returns their number.
    ///
    /// # Errors
    /// The storage cannot list or remove files. The next call finds the remaining ones.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64, ObjectError> {
        let shared = &self.shared;
        let prefix = (!shared.prefix.is_empty()).then(|| Path::from(shared.prefix.as_str()));
        let mut all = shared.store.list(prefix.as_ref());
        let mut removed = 0;
        while let Some(found) = all.next().await {
            let found = found?;
            if !shared.is_old(&found, now) {
                continue;
            }
            let location = found.location;
            let _alone = shared.sweep_lock.write().await;
            // The file may have been stored again since it was listed.
            let Some(meta) = shared.head(&location).await? else {
                continue;
            };
            if shared.is_old(&meta, now) {
                shared.store.delete(&location).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes expired files, periodically.
    pub async fn sweep_forever(&self) {
        loop {
            match self.sweep(clock::now()).await {
                Ok(0) => {}
                Ok(removed) => info!(removed, "expired attachments removed"),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let cause = cause.unwrap_or_default();
                    warn!(%error, cause, "expired attachments could not be removed");
                }
            }
            time::sleep(SWEEP_INTERVAL).await;
        }
    }
}

impl ObjectsState {
    fn path(&self, id: ObjectId) -> Path {
        if self.prefix.is_empty() {
            return Path::from(id.to_string());
        }
        Path::from(format!("{}/{id}", self.prefix))
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, ObjectError> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// True for an expired file. A file with a foreign name never expires.
    fn is_old(&self, meta: &ObjectMeta, now: Timestamp) -> bool {
        let millis = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or_default();
        let age = now.since(Timestamp::from_millis(millis));
        let name = meta.location.filename().unwrap_or_default();
        let is_new = self.folder.is_some() && meta.location.as_ref() == format!("{STAGING}/{name}");
        if is_new {
            return age >= STAGING_AGE_MAX;
        }
        name.parse()
            .is_ok_and(|id| self.path(id) == meta.location && age >= self.settings.age_max)
    }
}

fn bucket_client(bucket: &S3Bucket) -> Result<impl ObjectStore, ObjectError> {
    // A mail whose files cannot be stored is deferred and retried, so few retries are enough here.
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: CALL_TIMEOUT,
        ..RetryConfig::default()
    };
    let endpoint = bucket.endpoint.as_ref();
    let allow_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let builder = AmazonS3Builder::new()
        .with_retry(retry)
        .with_http_connector(DirectConnector { allow_http })
        .with_bucket_name(&bucket.name)
        .with_region(&bucket.region)
        .with_access_key_id(&bucket.key_id)
        .with_secret_access_key(bucket.key.reveal());
    let builder = builder.with_client_options(ClientOptions::new().with_allow_http(allow_http));
    let builder = match &bucket.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    };
    Ok(builder.build()?)
}

/// Connects to the configured server, and follows no redirect.
#[derive(Debug)]
struct DirectConnector {
    allow_http: bool,
}

impl HttpConnector for DirectConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .https_only(!self.allow_http)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build();
        let client = client.map_err(|error| object_store::Error::Generic {
            store: "S3",
            source: error.into(),
        })?;
        Ok(HttpClient::new(client))
    }
}

fn create_folder(folder: &FsPath) -> Result<(), ObjectError> {
    let create = || {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        for above in folder.ancestors().skip(1).take(2) {
            if !above.as_os_str().is_empty() {
                File::open(above)?.sync_all()?;
            }
        }
        Ok(())
    };
    create().map_err(|source| ObjectError::Io {
        path: folder.to_owned(),
        source,
    })
}

/// Restarts the age of a complete file at `path`; false if there is none.
async fn refresh_existing(path: PathBuf, length: usize) -> Result<bool, ObjectError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::now().as_millis());
    with_file(path, move |path| {
        let file = match fs::OpenOptions::new().append(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() != length as u64 {
            return Ok(false);
        }
        file.set_modified(now)?;
        Ok(true)
    })
    .await
}

async fn sync_path(path: PathBuf) -> Result<(), ObjectError> {
    with_file(path, |path| File::open(path)?.sync_all()).await
}

/// Runs file operations off the async threads.
async fn with_file<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&FsPath) -> io::Result<T> + Send + 'static,
) -> Result<T, ObjectError> {
    let name = path.clone();
    let done = task::spawn_blocking(move || work(&path)).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| ObjectError::Io { path: name, source })
}

#[cfg(test)]
mod tests;
