//! Arbitrary octets as a request to every provider's adapter, signed as the provider would, so that
//! decoding is reached. The fuzzer includes this file and the kits: `fuzz/fuzz_targets/webhook.rs`.

use std::sync::{Arc, LazyLock};

use postern::clock::Timestamp;
use postern::ingress::webhook::{Adapter, WebhookRequest};

use super::body::Body;
use super::kinds::KITS;
use super::kit::{self, adapters};
use super::post::Post;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const TO: &str = "general@in.example.com";

static CERTIFICATE: LazyLock<String> = LazyLock::new(kit::certificate);
static ADAPTERS: LazyLock<Vec<Arc<dyn Adapter>>> = LazyLock::new(adapters);

/// The first octet selects the provider and mode, the second the part that the rest replaces: the whole
/// body (0), or one value of a valid one. True if it was decoded.
pub(super) fn feed(octets: &[u8]) -> bool {
    let [choice, place, rest @ ..] = octets else {
        return false;
    };
    let kit = &KITS[usize::from(*choice) % KITS.len()];
    let good = (kit.body)(TO);
    let body = match place {
        0 => Body::Raw(rest.to_vec()),
        at => good.replaced(usize::from(*at) - 1, rest),
    };
    let mut post = kit.post(body, NOW);
    if kit.name != "ses" {
        // Signed in any form, and sent with the expected media type.
        post.headers.retain(|(name, _)| name != "content-type");
        post.header("content-type", good.media_type());
    }
    let adapter = ADAPTERS.iter().find(|adapter| adapter.name() == kit.name);
    adapter.is_some_and(|adapter| go_through(adapter.as_ref(), &post))
}

/// Calls everything that the receiver calls, in order, and stops where it would.
fn go_through(adapter: &dyn Adapter, post: &Post) -> bool {
    let request = WebhookRequest::new(post.headers(), post.body.clone(), None);
    adapter.is_recognised(&request);
    adapter.is_ping(&request);
    let _ = adapter.certificate_url(&request);
    // A certificate may be arbitrary too.
    let _ = adapter.authenticate(&request, NOW, Some(request.body()));
    let certificate = Some(CERTIFICATE.as_bytes());
    let Ok(authentic) = adapter.authenticate(&request, NOW, certificate) else {
        return false;
    };
    let _ = adapter.nonce(authentic);
    adapter.decode(authentic).is_ok()
}
