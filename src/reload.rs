//! Reading the configuration again, for SIGHUP and for `POST /v1/reload`.
//!
//! Invariant: a configuration that does not load changes nothing, and is counted and told. Which keys take effect is the
//! configuration's own knowledge (`config::reload`); putting them into force is the driver's.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::config::reload::needs_restart;
use crate::driver::Course;
use crate::inbox::FromOutside;
use crate::metrics::Metrics;

/// Reads the configuration from where it came; `Err`: what is wrong, a line per error.
pub type Read = Arc<dyn Fn() -> Result<Arc<Config>, Vec<String>> + Send + Sync>;

/// Reads, checks and hands over.
#[derive(Clone)]
pub struct Reloader {
    /// How to read. `None`: this process has no configuration that could change.
    pub read: Option<Read>,
    /// To the feed thread.
    pub outside: mpsc::Sender<FromOutside>,
    /// What is in force.
    pub course: watch::Receiver<Course>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

impl Reloader {
    /// Reads the configuration and hands it to the driver. `Ok`: the changed keys that need a restart.
    pub fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        let result = self.hand_over();
        if let Err(problems) = &result {
            self.metrics.reloaded(false);
            for problem in problems {
                tracing::error!("reload: {problem}");
            }
            tracing::error!("reload failed: the old configuration stays in force");
        }
        result
    }

    fn hand_over(&self) -> Result<Vec<String>, Vec<String>> {
        let Some(read) = &self.read else {
            return Err(vec!["this process has no configuration file to read again".to_owned()]);
        };
        // Not waiting: the side runtime calls this too.
        let busy = |_| vec!["the relay is too busy to reload now: try again".to_owned()];
        let place = self.outside.try_reserve().map_err(busy)?;
        let new = read()?;
        let fixed = needs_restart(&self.course.borrow().config, &new);
        // Counted first: whoever hears that the reload is done finds it counted.
        self.metrics.reloaded(true);
        place.send(FromOutside::Reload(new));
        Ok(fixed.into_iter().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reloader(read: Option<Read>) -> (Reloader, mpsc::Receiver<FromOutside>) {
        let (outside, received) = mpsc::channel(1);
        let (_, course) = watch::channel(Course { config: Arc::new(Config::default()), draining: false });
        (Reloader { read, outside, course, metrics: Arc::new(Metrics::new()) }, received)
    }

    #[test]
    fn a_good_configuration_is_handed_over_and_a_bad_one_is_not() {
        let read: Read = Arc::new(|| {
            let mut config = Config::default();
            config.upstream.url = "ws://new.example/".to_owned();
            Ok(Arc::new(config))
        });
        let (good, mut received) = reloader(Some(read));
        assert_eq!(good.reload(), Ok(vec!["upstream.url".to_owned()]));
        assert!(good.reload().unwrap_err()[0].contains("busy"), "nobody took the first one yet");
        assert!(matches!(received.try_recv(), Ok(FromOutside::Reload(_))));

        let (bad, mut received) = reloader(Some(Arc::new(|| Err(vec!["a.toml:1:2: no".to_owned()]))));
        assert_eq!(bad.reload(), Err(vec!["a.toml:1:2: no".to_owned()]));
        assert!(received.try_recv().is_err());
        assert!(reloader(None).0.reload().is_err());
    }
}
