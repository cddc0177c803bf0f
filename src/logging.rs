//! Log of the process. The environment sets its level, or else the configuration, which may change
//! while the process runs.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::log_level::LogLevel;

/// Environment variable with the log level. It takes precedence over the configuration.
const VARIABLE: &str = "PEERRELAY_LOG";
/// Environment variable with the format of the log.
const FORMAT: &str = "PEERRELAY_LOG_FORMAT";
/// Environment variables of the log.
pub(crate) const VARIABLES: [&str; 2] = [VARIABLE, FORMAT];
/// Libraries whose errors this program reports itself, with the fix.
const QUIET: [&str; 4] = [
    "ts_http_util=off",
    "ts_control=off",
    "ts_derp=off",
    "kube_runtime=warn",
];

/// Function that replaces the filter of the log. It is unset before [`start`].
static REPLACE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Error of a setting of the log in the environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLog {
    /// The format does not exist.
    #[error("{FORMAT} is '{0}': expected text or json")]
    Format(String),
    /// The text is neither a level nor a list of levels.
    #[error(
        "{VARIABLE} is '{0}': expected a level (error, warn, info, debug or trace), or levels for \
         parts of the program, such as peerrelay=debug,warn"
    )]
    Level(String),
}

/// Starts to log to standard error.
///
/// # Errors
/// The environment has an unknown format or level.
pub fn start() -> Result<(), InvalidLog> {
    let level = given(VARIABLE).unwrap_or_default();
    check(&level)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match given(FORMAT).as_deref() {
        Some("json") => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            REPLACE.get_or_init(|| Box::new(move |filter| drop(handle.reload(filter))));
            log.init();
        }
        None | Some("text") => {
            let log = log.with_target(false).with_filter_reloading();
            let handle = log.reload_handle();
            REPLACE.get_or_init(|| Box::new(move |filter| drop(handle.reload(filter))));
            log.init();
        }
        Some(other) => return Err(InvalidLog::Format(other.to_owned())),
    }
    Ok(())
}

/// Sets the level of the log, unless the environment sets it.
pub fn set_level(level: LogLevel) {
    if let Some(replace) = REPLACE.get().filter(|_| given(VARIABLE).is_none()) {
        replace(filter(directives(level)));
    }
}

fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

fn check(level: &str) -> Result<(), InvalidLog> {
    match EnvFilter::builder().parse(level) {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidLog::Level(level.to_owned())),
    }
}

/// Returns the filter for a level. At debug level, libraries log the data that they send, so only
/// this program's own messages are enabled.
const fn directives(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "info,peerrelay=debug,relay_proto=debug",
    }
}

fn filter(directives: &str) -> EnvFilter {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse_lossy(directives);
    QUIET.into_iter().fold(filter, |filter, directive| {
        filter.add_directive(directive.parse().expect("constant directives are valid"))
    })
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled, subscriber::with_default};

    use super::*;

    #[test]
    fn levels_are_taken_over_while_the_process_logs() {
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter(""))
            .with_filter_reloading();
        let handle = log.reload_handle();
        let logged = || {
            [
                enabled!(target: "peerrelay::relay", Level::WARN),
                enabled!(target: "peerrelay::relay", Level::INFO),
                enabled!(target: "peerrelay::relay", Level::DEBUG),
                enabled!(target: "hyper", Level::DEBUG),
                enabled!(target: "ts_derp", Level::ERROR),
            ]
        };
        with_default(log.finish(), || {
            let info = [true, true, false, false, false];
            assert_eq!(logged(), info);
            for (level, wanted) in [
                (LogLevel::Debug, [true, true, true, false, false]),
                (LogLevel::Error, [false; 5]),
                (LogLevel::Warn, [true, false, false, false, false]),
                (LogLevel::Info, info),
            ] {
                handle
                    .reload(filter(directives(level)))
                    .expect("it is there");
                assert_eq!(logged(), wanted, "{level:?}");
            }
        });
    }
}
