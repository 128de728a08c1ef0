//! Owns the wiring of what the product calls: the gateway over HTTP, and the outbox's intake behind it.
//!
//! Does not send.

use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::{Failure, key_ring};
use crate::config::{Config, Secret};
use crate::delivery::underway::Underway;
use crate::http;
use crate::http::outbound::{Callers, Gateway, GatewaySettings};
use crate::mail::outgoing::loop_mark;
use crate::outbound::compose::HeaderText;
use crate::outbound::intake::{self, Intake, IntakeSettings};
use crate::store::Store;

/// Characters of a loop mark.
const MARK_CHARS_MAX: usize = 255;

/// What the product's calls are answered from; it takes no mail where nothing is sent.
pub(super) fn open(
    config: &Config,
    store: &Store,
    underway: Arc<Underway>,
    registry: &mut Registry,
) -> Result<Gateway, Failure> {
    let (settings, api) = (&config.outbound, &config.outbound.api);
    let callers = Callers::new(
        api.keys.iter().map(Secret::reveal),
        api.secrets.iter().map(Secret::reveal),
        api.age_max,
    );
    let bounds = GatewaySettings {
        body_bytes_max: api.body_bytes_max,
        bytes_in_flight_max: api.bytes_in_flight_max,
        age_max: settings.max_age,
        suppression_age: settings.suppress_for,
        suppress_after: settings.worker.suppress_after,
    };
    let intake = intake(config, store, underway)?
        .map(|intake| Arc::new(intake) as Arc<dyn http::outbound::Intake>);
    Ok(Gateway::new(
        store.clone(),
        intake,
        callers,
        bounds,
        registry,
    ))
}

/// What makes mails of the product's drafts; `None` where nothing is sent.
fn intake(
    config: &Config,
    store: &Store,
    underway: Arc<Underway>,
) -> Result<Option<Intake>, Failure> {
    let settings = &config.outbound;
    let Some(from) = settings.from.clone().filter(|_| settings.enabled) else {
        return Ok(None);
    };
    let mut routes = Vec::new();
    for route in &config.routes {
        let keys = Arc::new(key_ring(route)?);
        let mark = loop_mark(&keys, &route.domains[0]);
        routes.push(intake::Route {
            name: route.name.clone(),
            domains: route.domains.clone(),
            keys,
            format: route.token_format,
            loop_mark: HeaderText::cleaned(&mark, MARK_CHARS_MAX),
            marker: route.reply_marker.clone(),
        });
    }
    let templates = Arc::clone(&settings.templates);
    let settings = IntakeSettings {
        from,
        product_name: settings.from_name.clone().unwrap_or_default(),
        age_max: settings.max_age,
        suppress_after: settings.worker.suppress_after,
        list_id: settings.list_id.clone(),
        list_unsubscribe: settings.list_unsubscribe.clone(),
    };
    Ok(Some(Intake::new(
        store.clone(),
        routes,
        settings,
        templates,
        underway,
    )))
}
