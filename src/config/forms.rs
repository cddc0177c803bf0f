//! Forms of values in the configuration file and on the command line.

use std::{net::SocketAddr, str::FromStr};

use url::Url;

use crate::names;

/// Error of a value in another form. Its text shows the right form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The text is not a whole number, or zero, or too large.
    #[error("expected a whole number of at least 1, such as 4")]
    Count,
    /// The text is not an IP address with a port.
    #[error("expected IP:PORT, such as 127.0.0.1:{0} or [::]:{0}")]
    ListenAddress(u16),
    /// The text is not the URL of a server.
    #[error("expected a URL without a path, such as https://control.example.net")]
    ControlUrl,
    /// No DNS label can be made of the text.
    #[error(
        "expected a name with a letter or digit, such as relay-berlin, or nothing for the name of \
         the host"
    )]
    Hostname,
}

/// Parses a number that is not zero.
///
/// # Errors
/// The text is not a number of this type.
pub fn count<T: FromStr>(text: &str) -> Result<T, FormError> {
    text.parse().map_err(|_| FormError::Count)
}

/// Parses the address of a server of this process.
///
/// # Errors
/// The text is not an IP address with a port. The example in the error has the port of the text, or
/// else `example`.
pub fn listen_address(text: &str, example: u16) -> Result<SocketAddr, FormError> {
    text.parse().map_err(|_| {
        let port = text.trim_start_matches(':').parse();
        FormError::ListenAddress(port.unwrap_or(example))
    })
}

/// Parses the URL of a control server: `http` or `https`, with a host and without a path.
///
/// # Errors
/// The text is not such a URL.
pub fn control_url(text: &str) -> Result<Url, FormError> {
    let url = Url::parse(text).map_err(|_| FormError::ControlUrl)?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none();
    is_origin.then_some(url).ok_or(FormError::ControlUrl)
}

/// Checks the name of a device. Characters that a name cannot have are replaced later.
///
/// # Errors
/// The text has neither a letter nor a digit.
pub fn hostname(text: &str) -> Result<String, FormError> {
    match names::device(text).is_empty() {
        true => Err(FormError::Hostname),
        false => Ok(text.to_owned()),
    }
}

/// Optional fields of the configuration file in these forms.
pub(super) mod field {
    use std::{fmt, net::SocketAddr, str::FromStr};

    use serde::{Deserializer, de};
    use url::Url;

    use super::FormError;
    use crate::config::DEFAULT_METRICS_PORT;

    pub(in crate::config) fn count<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr,
    {
        deserializer.deserialize_any(Text(super::count))
    }

    pub(in crate::config) fn listen_address<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let parse = |text: &str| super::listen_address(text, DEFAULT_METRICS_PORT);
        deserializer.deserialize_any(Text(parse))
    }

    pub(in crate::config) fn control_url<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Url>, D::Error> {
        deserializer.deserialize_any(Text(super::control_url))
    }

    pub(in crate::config) fn hostname<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<String>, D::Error> {
        deserializer.deserialize_any(Text(super::hostname))
    }

    /// Reads a text or a number with the function.
    struct Text<T>(fn(&str) -> Result<T, FormError>);

    impl<'de, T> de::Visitor<'de> for Text<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a number")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
            self.0(text).map(Some).map_err(E::custom)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<T>, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<T>, E> {
            self.visit_str(&number.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_control_server_is_an_origin() {
        for good in ["https://control.example.net", "http://192.0.2.1:8080/"] {
            assert!(control_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "foo",
            "control.example.net",
            "control.example.net:443",
            "ftp://control.example.net",
            "https://control.example.net/path",
            "https://control.example.net/?a",
            "https://control.example.net#a",
            "https:///",
        ] {
            assert_eq!(control_url(bad), Err(FormError::ControlUrl), "{bad}");
        }
    }

    #[test]
    fn example_of_an_address_has_the_given_port() {
        for (text, port) in [("8080", 8_080), (":8080", 8_080), ("localhost:1", 9_440)] {
            let error = listen_address(text, 9_440);
            assert_eq!(error, Err(FormError::ListenAddress(port)), "{text}");
        }
    }
}
