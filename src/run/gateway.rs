//! Owns the wiring of the product's calls: the gateway over HTTP, and the outbox behind it.
//!
//! Does not send.

use std::sync::Arc;

use prometheus_client::registry::Registry;

use super::exit::ExitError;
use super::parts::key_ring;
use crate::config::{Config, Secret};
use crate::http;
use crate::http::outbound::{CallAuth, Gateway, GatewaySettings};
use crate::mail::job_id::loop_mark;
use crate::outbound::compose::HeaderText;
use crate::outbound::intake::{self, IntakeSettings, OutboundIntake};
use crate::store::Store;

/// Characters of a loop mark.
const LOOP_MARK_CHARS_MAX: usize = 255;

/// Creates the gateway. If outgoing mail is switched off, it accepts no drafts.
pub(super) fn open(
    config: &Config,
    store: &Store,
    registry: &mut Registry,
) -> Result<Gateway, ExitError> {
    let (settings, api) = (&config.outbound, &config.outbound.api);
    let callers = CallAuth::new(
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
    let intake = intake(config, store)?
        .map(|intake| Arc::new(intake) as Arc<dyn http::outbound::DraftIntake>);
    Ok(Gateway::new(
        store.clone(),
        intake,
        callers,
        bounds,
        registry,
    ))
}

/// Creates the intake of the outbox; `None` if outgoing mail is switched off.
fn intake(config: &Config, store: &Store) -> Result<Option<OutboundIntake>, ExitError> {
    let settings = &config.outbound;
    let Some(from) = settings.from.clone().filter(|_| settings.enabled) else {
        return Ok(None);
    };
    let mut routes = Vec::new();
    for route in &config.routes {
        let keys = Arc::new(key_ring(route)?);
        let mark = loop_mark(&keys, &route.domains[0]);
        routes.push(intake::OutboundRoute {
            name: route.name.clone(),
            domains: route.domains.clone(),
            keys,
            format: route.token_format,
            loop_mark: HeaderText::cleaned(&mark, LOOP_MARK_CHARS_MAX),
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
    Ok(Some(OutboundIntake::new(
        store.clone(),
        routes,
        settings,
        templates,
    )))
}
