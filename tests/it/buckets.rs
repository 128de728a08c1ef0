//! Stored files in a bucket, with a real S3 server: `moto_server` of PyPI's `moto[server]`, which
//! tests/run.sh installs.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use postern::clock;
use postern::objects::{
    AttachmentLimits, LinkSigner, ObjectId, Objects, S3Bucket, Settings, StorageLocation,
};
use postern::secret::Secret;

use crate::bench::DAY;
use crate::needs::required;
use crate::ports::reserve;
use crate::wait::eventually_or;

/// A running server with an empty bucket `mail`. It is stopped when this is dropped.
pub(crate) struct Moto {
    child: Child,
    url: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Moto {
    pub(crate) async fn start() -> Option<Self> {
        let port = reserve();
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/moto_server");
        let program = if installed.exists() {
            installed
        } else {
            "moto_server".into()
        };
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let moto = Self {
            child: required(child.ok(), "no moto_server, so no bucket")?,
            url: format!("http://127.0.0.1:{port}"),
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let makes = async || {
            let made = client.put(format!("{}/mail", moto.url)).send().await;
            made.is_ok_and(|made| made.status().is_success())
        };
        eventually_or("moto_server makes a bucket", makes, || ()).await;
        Some(moto)
    }

    /// The settings for a bucket of this name.
    pub(crate) fn bucket(&self, name: &str, key: &str) -> S3Bucket {
        S3Bucket {
            name: name.to_owned(),
            endpoint: Some(self.url.clone()),
            region: "us-east-1".to_owned(),
            prefix: "postern/files".to_owned(),
            key_id: "postern".to_owned(),
            key: Secret::new(key),
        }
    }

    /// Makes a bucket, or an object in one, with these header fields.
    pub(crate) async fn put(&self, path: &str, bytes: Vec<u8>, fields: &[(&str, &str)]) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.put(format!("{}/{path}", self.url)).body(bytes);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let made = request.send().await.unwrap();
        assert!(made.status().is_success(), "{path}: {made:?}");
    }

    fn objects(&self, key: &str) -> Objects {
        let bucket = self.bucket("mail", key);
        let settings = Settings {
            location: StorageLocation::Bucket(bucket),
            bounds: AttachmentLimits::default(),
            links: LinkSigner::new("http://postern.example", &[Secret::new("secret")], DAY),
            age_max: 30 * DAY,
            free_bytes_min: 0,
        };
        assert!(!format!("{settings:?}").contains(key));
        Objects::open(settings).unwrap()
    }
}

#[tokio::test]
async fn a_bucket_keeps_gives_back_and_forgets() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    let objects = moto.objects("the access key");
    let id = ObjectId::of(b"0123456789");
    assert_eq!(objects.size(id).await.unwrap(), None);
    for _ in 0..2 {
        let bytes = Bytes::from_static(b"0123456789");
        objects.put(id, bytes).await.unwrap();
    }
    assert_eq!(objects.size(id).await.unwrap(), Some(10));
    let opened = objects.read(id, 3..5).await.unwrap().unwrap();
    assert_eq!(opened.range, 3..5);
    let body = axum::body::Body::from_stream(opened.stream);
    assert_eq!(axum::body::to_bytes(body, 10).await.unwrap(), "34");
    let now = clock::now();
    assert_eq!(objects.sweep(now).await.unwrap(), 0);
    assert_eq!(objects.sweep(now.plus(31 * DAY)).await.unwrap(), 1);
    assert_eq!(objects.size(id).await.unwrap(), None);
    drop(moto);
    let kept = objects.put(id, Bytes::from_static(b"0123456789")).await;
    let error = kept.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(!format!("{error} {cause}").contains("the access key"));
}
