//! Wait that an HTTP server asks for before the next request (`Retry-After`).

use std::time::Duration;

use http::{HeaderMap, header::RETRY_AFTER};
use jiff::{Timestamp, fmt::rfc2822};

/// Longest wait that an answer can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Reads `Retry-After`: a number of seconds, or a date. The result is ten minutes at most.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    read(headers, Timestamp::now())
}

fn read(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        // `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3).
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            // Dates of HTTP have a form of RFC 2822. A date that has passed, also by a wrong clock of this
            // host, is no wait.
            let date = rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_has_a_limit() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for (text, seconds) in [
            ("3", Some(3)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("86400", Some(600)),
            ("99999999999999999999", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let wait = read(&headers, now);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(read(&HeaderMap::new(), now), None);
    }
}
