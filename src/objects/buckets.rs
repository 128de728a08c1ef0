//! Owns the reading of objects from the configured external buckets.
//!
//! Does not write, and has no time limit; the caller sets one.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{Attribute, GetOptions, ObjectStore};
use thiserror::Error;

use super::{ObjectError, S3Bucket, bucket_client};

/// Metadata that Amazon's encryption client adds to an encrypted object.
const ENCRYPTION_METADATA: [&str; 2] = ["x-amz-key-v2", "x-amz-key"];
/// Octets that are allocated initially for an object, whatever its length.
const INITIAL_CAPACITY_MAX: u64 = 1 << 20;

/// The buckets that may be read. Clones share them.
#[derive(Clone)]
pub struct ReadableBuckets(Arc<[(String, Arc<dyn ObjectStore>)]>);

impl ReadableBuckets {
    /// Prepares clients for these buckets, without a request. Their prefixes are not used.
    ///
    /// # Errors
    /// The settings of a bucket are invalid.
    pub fn new(buckets: &[S3Bucket]) -> Result<Self, ObjectError> {
        let mut list: Vec<(String, Arc<dyn ObjectStore>)> = Vec::new();
        for bucket in buckets {
            list.push((bucket.name.clone(), Arc::new(bucket_client(bucket)?)));
        }
        Ok(Self(list.into()))
    }

    /// Opens an object. For an unlisted bucket no request is sent.
    ///
    /// # Errors
    /// The object cannot be read, permanently or now.
    pub async fn open(&self, bucket: &str, key: &str) -> Result<BucketObject, BucketError> {
        let listed = self.0.iter().find(|(name, _)| name == bucket);
        let (_, store) = listed.ok_or_else(|| BucketError::Unlisted(bucket.to_owned()))?;
        let path = Path::parse(key).map_err(|_| BucketError::InvalidKey)?;
        // Without a key the response would be a list of the objects in the bucket.
        if key.is_empty() || path.as_ref() != key {
            return Err(BucketError::InvalidKey);
        }
        let found = store.get_opts(&path, GetOptions::default()).await?;
        let is_encrypted = ENCRYPTION_METADATA.iter().any(|name| {
            let name = Attribute::Metadata((*name).into());
            found.attributes.get(&name).is_some()
        });
        if is_encrypted {
            return Err(BucketError::Encrypted);
        }
        Ok(BucketObject {
            bytes: found.meta.size,
            stream: found.into_stream(),
        })
    }
}

impl fmt::Debug for ReadableBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// An object that is open and not yet read.
pub struct BucketObject {
    bytes: u64,
    stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
}

impl BucketObject {
    /// The length of the object in octets, as the bucket reports it.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the whole object.
    ///
    /// # Errors
    /// The object does not arrive, or its length differs from the reported one.
    pub async fn read_all(mut self) -> Result<Bytes, BucketError> {
        let first = usize::try_from(self.bytes.min(INITIAL_CAPACITY_MAX)).unwrap_or_default();
        let mut whole = BytesMut::with_capacity(first);
        while let Some(more) = self.stream.next().await {
            let more = more?;
            if (whole.len() + more.len()) as u64 > self.bytes {
                return Err(BucketError::LengthMismatch);
            }
            whole.extend_from_slice(&more);
        }
        if whole.len() as u64 != self.bytes {
            return Err(BucketError::LengthMismatch);
        }
        Ok(whole.freeze())
    }
}

impl fmt::Debug for BucketObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketObject")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// The reason why an object in a bucket cannot be read.
#[derive(Debug, Error)]
pub enum BucketError {
    /// The name is invalid for an object.
    #[error("object key: malformed")]
    InvalidKey,
    /// More or fewer octets arrived than the bucket reported.
    #[error("object: its length differs from the one in the bucket's response")]
    LengthMismatch,
    /// Amazon's encryption client has encrypted the object.
    #[error("object: encrypted by a client; disable encryption in the receipt rule")]
    Encrypted,
    /// The bucket did not return the object.
    #[error("bucket")]
    Store(#[from] object_store::Error),
    /// The bucket is not in the configured list.
    #[error("bucket {0:?}: not listed")]
    Unlisted(String),
}
