//! A request that can be changed before it is sent.

use bytes::Bytes;
use postern::ingress::webhook::Headers;

/// A request as a provider would send it.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) provider: Option<&'static str>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Bytes,
}

impl Post {
    pub(super) fn header(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    pub(super) fn headers(&self) -> Headers {
        let fields = self.headers.iter();
        Headers::new(fields.map(|(name, value)| (name.as_str(), value.as_slice())))
    }
}
