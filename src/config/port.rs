//! UDP port of a relay. It may be empty.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// UDP port of a relay. An empty port turns the relay off, as `tailscale set
/// --relay-server-port=""` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayPort {
    /// The relay is off.
    Off,
    /// The relay uses this port. With 0, the kernel chooses one.
    On(u16),
}

/// Error of parsing a port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a UDP port up to 65535, such as 40000, or nothing to turn the relay off")]
pub struct InvalidPort;

impl RelayPort {
    /// Returns the port, or nothing if the relay is off.
    pub const fn number(self) -> Option<u16> {
        match self {
            Self::Off => None,
            Self::On(port) => Some(port),
        }
    }
}

impl FromStr for RelayPort {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        match text.trim() {
            "" => Ok(Self::Off),
            digits => digits.parse().map(Self::On).map_err(|_| InvalidPort),
        }
    }
}

impl Serialize for RelayPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // The empty text is the value with which `tailscale set --relay-server-port` turns its relay
            // off.
            Self::Off => serializer.serialize_str(""),
            Self::On(port) => serializer.serialize_u16(*port),
        }
    }
}

impl<'de> Deserialize<'de> for RelayPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RelayPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a UDP port, or \"\" to turn the relay off")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RelayPort, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RelayPort, E> {
                let port = u16::try_from(number).map(RelayPort::On);
                port.map_err(|_| E::custom(InvalidPort))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn an_empty_port_is_off_and_nonsense_is_refused() {
        assert_eq!("".parse(), Ok(RelayPort::Off));
        assert_eq!("40000".parse(), Ok(RelayPort::On(40_000)));
        for text in ["70000", "-1", "off"] {
            let error = text.parse::<RelayPort>().unwrap_err();
            assert!(error.to_string().contains("turn the relay off"), "{error}");
        }
    }

    #[test]
    fn yaml_has_numbers_and_the_empty_text() {
        let read = |text: &str| serde_yaml::from_str::<RelayPort>(text);
        assert_eq!(read("40000").unwrap(), RelayPort::On(40_000));
        assert_eq!(read("'40000'").unwrap(), RelayPort::On(40_000));
        assert_eq!(read("''").unwrap(), RelayPort::Off);
        assert!(read("70000").is_err());
        for port in [RelayPort::Off, RelayPort::On(1)] {
            assert_eq!(read(&serde_yaml::to_string(&port).unwrap()).unwrap(), port);
        }
    }
}
