//! What the side runtime needs of the configuration, made once per configuration and swapped whole.

use std::sync::Arc;

use tokio::sync::watch;

use super::guard::Guard;
use crate::config::Config;
use crate::protocol::request::parse::RequestLimits;
use crate::relay::access::Access;

/// The rules for handshakes and HTTP requests that begin now.
pub struct Policy {
    /// The configuration that it was made of.
    pub config: Arc<Config>,
    /// Which token is whose.
    pub access: Access,
    /// Who may speak to the feed listener.
    pub feed_guard: Guard,
    /// Who may speak to the admin listener: only its own pages, `access.origins` are for apps.
    pub admin_guard: Guard,
    /// What a request may be at most.
    pub limits: RequestLimits,
}

impl Policy {
    /// The rules of a configuration.
    pub fn new(config: Arc<Config>) -> Self {
        Policy {
            access: Access::new(&config.access),
            feed_guard: Guard::new(&config.access.hosts, &config.access.origins),
            admin_guard: Guard::own_pages(&config.access.hosts),
            limits: RequestLimits::new(&config),
            config,
        }
    }

    /// Follows the configuration. Starts a task on the current runtime that ends with the configuration's sender.
    pub fn follow(mut config: watch::Receiver<Arc<Config>>) -> watch::Receiver<Arc<Policy>> {
        let first = config.borrow_and_update().clone();
        let (policies, policy) = watch::channel(Arc::new(Policy::new(first)));
        tokio::spawn(async move {
            while config.changed().await.is_ok() {
                let now = config.borrow_and_update().clone();
                if policies.send(Arc::new(Policy::new(now))).is_err() {
                    return;
                }
            }
        });
        policy
    }
}
